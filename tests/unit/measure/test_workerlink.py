"""The parent's end of a bench worker: what it makes of a worker that does not answer."""

from __future__ import annotations

import sys

import pytest

from edgemtl.errors import StageFailed
from edgemtl.measure import workerlink
from edgemtl.measure.workerlink import WorkerLink


def test_what_a_package_prints_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "print('[1, two]', flush=True); input()"
    monkeypatch.setattr(workerlink, "python_module", lambda name: [sys.executable, "-c", program])
    said = r"printed no answer to 'load' but: \[1, two\]"
    with (
        pytest.raises(StageFailed, match=said) as failed,
        WorkerLink("model.onnx", 20) as link,
    ):
        link.ask("load")
    assert failed.value.where == "model.onnx"
