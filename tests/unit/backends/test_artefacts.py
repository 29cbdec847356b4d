"""Artefacts are made, opened and told apart in one way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import SIZE, write_network

from edgemtl import targets
from edgemtl.backends.artefacts import compile_for, open_session, same_artefact, session_options
from edgemtl.backends.onnxruntime import OnnxRuntimeSession
from edgemtl.errors import UsageError


def test_what_was_compiled_runs_and_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[OnnxRuntimeSession] = []
    monkeypatch.setattr(OnnxRuntimeSession, "close", lambda session: closed.append(session))
    target = targets.load("cpu")
    artefact = compile_for(target, write_network(tmp_path / "a.onnx"), tmp_path / "deep" / "made")
    with open_session(artefact, session_options(target, 1)) as session:
        answers = session.run(np.zeros((1, 3, *SIZE), np.float32))
        assert set(answers) == {"étiquettes.logits", "depth.depth"}
        assert not closed
    assert closed == [session]
    with pytest.raises(ZeroDivisionError), open_session(artefact, session_options(target, 1)):
        raise ZeroDivisionError
    assert len(closed) == 2


def test_artefacts_are_the_same_by_their_bytes(tmp_path: Path) -> None:
    target = targets.load("cpu")
    one, again, other = (
        compile_for(target, write_network(tmp_path / f"{name}.onnx", seed), tmp_path / name)
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert same_artefact(one, again)
    assert not same_artefact(one, other)


def test_sessions_compute_in_the_precision_of_the_target() -> None:
    target = targets.load("cpu")
    assert session_options(target, 3).precision_hint == "f32"
    hinted = target.model_copy(update={"options": {"precision_hint": "bf16"}})
    found = session_options(hinted, 3)
    assert (found.threads, found.precision_hint) == (3, "bf16")


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    target = targets.load("cpu").model_copy(update={"backend": "nobody"})
    with pytest.raises(UsageError, match="unknown backend 'nobody'"):
        compile_for(target, write_network(tmp_path / "a.onnx"), tmp_path / "made")
