"""Backends are found by name, third parties' too; nothing heavy is imported before its use."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.errors import TargetUnavailable, UsageError


def test_every_shipped_target_names_a_backend() -> None:
    for name in targets.names():
        assert targets.load(name).backend in registry.names()


def test_every_name_builds_a_backend_of_that_name() -> None:
    for name in registry.names():
        assert registry.get(name).name == name


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="unknown backend 'onnx-runtime'") as error:
        registry.get("onnx-runtime")
    assert "onnxruntime" in str(error.value)


def test_asking_for_a_backend_imports_no_runtime() -> None:
    program = (
        "import sys; from edgemtl.backends import registry;"
        "[registry.get(name) for name in registry.names()];"
        "print([m for m in ('onnxruntime', 'openvino', 'onnx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def plugged_in(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    point = SimpleNamespace(name="theirs", value="theirs:Backend", load=load)
    monkeypatch.setattr(
        registry, "points", lambda group, name=None: [point] if name in (None, "theirs") else []
    )


def test_a_third_party_joins_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(OnnxRuntimeBackend):
        name = "theirs"

    plugged_in(monkeypatch, lambda: Theirs)
    assert "theirs" in registry.names()
    assert isinstance(registry.get("theirs"), Theirs)


def test_a_broken_third_party_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("no module named 'theirs_runtime'")

    plugged_in(monkeypatch, broken)
    with pytest.raises(TargetUnavailable, match="theirs_runtime"):
        registry.get("theirs")


def test_a_third_party_that_is_no_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in(monkeypatch, lambda: dict)
    with pytest.raises(TargetUnavailable, match=r"is not an edgemtl\.backends\.base\.Backend"):
        registry.get("theirs")
