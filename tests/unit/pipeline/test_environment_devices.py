"""Which devices are here is asked of the runtimes; the others are told how to reach."""

from __future__ import annotations

from typing import Any

import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.openvino import OpenVinoBackend
from edgemtl.backends.types import Availability
from edgemtl.pipeline.environment import device_list


def _by_target() -> dict[str, dict[str, Any]]:
    return {device["target"]: device for device in device_list()}


def test_every_target_is_listed_and_this_processor_is_here() -> None:
    found = _by_target()
    assert list(found) == targets.names()
    name = registry.get("onnxruntime").devices()["CPU"]
    assert found["cpu"]["here"] and found["cpu"]["how"].endswith(name)
    assert not found["jetson"]["here"] and "--device ssh://" in found["jetson"]["how"]
    assert "modelled" in found["zcu104"]["how"] and "ssh" not in found["zcu104"]["how"]


def test_a_gpu_that_the_runtime_sees_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoBackend, "availability_impl", lambda self: Availability(True, "x"))
    monkeypatch.setattr(
        OpenVinoBackend, "devices_impl", lambda self: {"CPU": "a CPU", "GPU.0": "an Arc"}
    )
    found = _by_target()
    assert found["intel-gpu"]["here"] and "an Arc" in found["intel-gpu"]["how"]
    assert found["intel-cpu"]["here"] and "an Arc" not in found["intel-cpu"]["how"]
    assert not found["intel-npu"]["here"]


def test_a_runtime_that_is_missing_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Availability(False, reason="the package is missing")
    monkeypatch.setattr(OpenVinoBackend, "availability_impl", lambda self: gone)
    found = _by_target()["intel-cpu"]
    assert not found["here"] and found["how"] == "the package is missing"
