"""TVM: its processes, what they answer, and what becomes of a process that dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm import child, session
from edgemtl.backends.tvm.graphs import SUPPORTED, graph_problems
from edgemtl.backends.tvm.session import PipeSession
from edgemtl.backends.tvm.settings import TvmOptions, options_of, resolved, wanted_flags
from edgemtl.errors import StageFailed, UsageError

SHAPE = (1, 1, 1, 4)


def fake(program: str, shapes: dict[str, tuple[int, ...]] | None = None) -> PipeSession:
    """A session whose process is a small Python program."""
    command = [sys.executable, "-c", program]
    return PipeSession(command, os.environ, SHAPE, shapes or {"out": (1, 4)}, "measured")


def test_the_table_of_operators_is_the_importers() -> None:
    source = registry.get("tvm")
    if not source.availability().ok:
        pytest.skip(source.availability().reason)
    from edgemtl.backends.tvm.library import runtime_folder

    frontend = runtime_folder().parent / "relax" / "frontend" / "onnx" / "onnx_frontend.py"
    text = frontend.read_text("utf-8")
    table = text[text.index("def _get_convert_map") :].partition("\ndef ")[0]
    known = {part.split('"')[1] for part in table.splitlines() if part.strip().startswith('"')}
    assert SUPPORTED - known == {"If"}  # which the importer treats apart


def test_a_process_that_speaks_is_heard() -> None:
    program = (
        "import sys; o = sys.stdout.buffer; o.write(b'R'); o.flush()\n"
        "while len(d := sys.stdin.buffer.read(16)) == 16: o.write(b'O' + d); o.flush()"
    )
    opened = fake(program)
    images = np.arange(4, dtype=np.float32).reshape(SHAPE)
    assert np.array_equal(opened.run(images)["out"], images.reshape(1, 4))
    assert np.array_equal(opened.run(images + 1)["out"], images.reshape(1, 4) + 1)
    opened.close()


def test_a_process_that_dies_while_loading_is_an_error_with_its_last_words() -> None:
    with pytest.raises(StageFailed, match=r"cannot load the model: .*exit code 3.*no such thing"):
        fake("import sys; print('no such thing', file=sys.stderr); sys.exit(3)")


def test_a_process_that_dies_while_running_is_an_error_with_its_signal() -> None:
    program = (
        "import os, sys; os.write(1, b'R'); sys.stdin.buffer.read(16); os.kill(os.getpid(), 11)"
    )
    opened = fake(program)
    with pytest.raises(StageFailed, match="SIGSEGV"):
        opened.run(np.zeros(SHAPE, np.float32))
    opened.close()


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = fake("import os, time; os.write(1, b'R'); time.sleep(600)")
    monkeypatch.setattr(session, "RUN_SECONDS", 0.3)
    with pytest.raises(StageFailed, match="no answer within"):
        opened.run(np.zeros(SHAPE, np.float32))
    opened.close()


def test_a_compiler_that_dies_is_a_failed_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StageFailed, match="TVM died with signal SIGABRT"):
        child.ask("dying", {})


def test_a_compiler_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StageFailed, match="and was ended"):
        child.ask("hanging", {}, time_limit_seconds=0.5)


def test_options_of_a_target_are_checked() -> None:
    target = targets.load("tvm-x86").model_copy(update={"options": {"mcpu": "host", "speed": 9}})
    with pytest.raises(UsageError, match=r"options\.speed"):
        options_of(target)


def test_this_machine_is_one_of_the_known_levels() -> None:
    found = resolved(TvmOptions())
    assert found.mcpu != "host" and found.vector_bytes in (16, 32, 64) and found.registers
    named = TvmOptions(mcpu="cortex-a72", vector_bytes=16, registers=32)
    assert resolved(named) == named
    assert set(wanted_flags("x86-64-v3")) < set(wanted_flags("x86-64-v4"))
    assert wanted_flags("cortex-a72") == ()


def test_a_graph_with_an_open_shape_is_refused(relu_graph: object, tmp_path: Path) -> None:
    path = relu_graph(shape=("batch", 3, 4, 4))  # type: ignore[operator]
    assert "not static" in graph_problems(path)[0].reason
