"""The bundle's runner on a board with TVM: it drives the C++ runner, played here by a program."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edgemtl.devices.runner import runtimes
from edgemtl.devices.runner.errors import STAGE_FAILED, UNAVAILABLE, RunnerError

SHAPE = (1, 3, 2, 2)
IMAGES = np.arange(12, dtype=np.float32).reshape(SHAPE)
#: answers with the input's sum, and the input times two
GOOD = """
    import json, os, struct, sys
    if sys.argv[3] == "bench":
        assert os.environ["TVM_NUM_THREADS"] == "3" and sys.argv[2] == "1x3x2x2"
        print(json.dumps({"samples_ms": [1.5] * int(sys.argv[4])}))
        raise SystemExit
    sys.stdout.buffer.write(b"R"); sys.stdout.buffer.flush()
    while len(data := sys.stdin.buffer.read(48)) == 48:
        values = struct.unpack("12f", data)
        out = struct.pack("13f", sum(values), *(2 * v for v in values))
        sys.stdout.buffer.write(b"O" + out); sys.stdout.buffer.flush()
"""


def board(folder: Path, program: str | None) -> str:
    """An artefact's folder; the path of its library."""
    outputs = [{"name": "sum", "shape": [1]}, {"name": "twice", "shape": list(SHAPE)}]
    described = {"input_shape": list(SHAPE), "outputs": outputs, "mcpu": "cortex-a72"}
    (folder / "model.json").write_text(json.dumps(described | {"tvm": "0.27"}), "utf-8")
    (folder / "model.so").write_bytes(b"")
    if program is not None:
        text = f"#!{sys.executable}\n" + textwrap.dedent(program)
        (folder / "runner").write_text(text, "utf-8")
    return str(folder / "model.so")


def load(model: str) -> runtimes.Session:
    return runtimes.load("tvm", model, "Raspberry Pi 4", 3, "f32", ["twice", "sum"])


def test_outputs_come_by_name_and_times_are_the_runners(tmp_path: Path) -> None:
    session = load(board(tmp_path, GOOD))
    for factor in (1, -2):
        found = session.run(factor * IMAGES)
        assert list(found) == ["twice", "sum"]
        assert np.array_equal(found["twice"], 2 * factor * IMAGES)
        assert found["sum"] == factor * IMAGES.sum()
    looks: list[int] = []
    assert session.samples(IMAGES, 0.0, 7, 0.0, lambda: looks.append(1)) == [1.5] * 7
    assert looks and (session.runtime, session.version) == ("tvm", "0.27")
    session.close()


def test_a_runner_for_another_processor_is_not_available(tmp_path: Path) -> None:
    model = board(tmp_path, None)
    (tmp_path / "runner").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(RunnerError, match=r"does not start here .*cortex-a72") as caught:
        load(model)
    assert caught.value.code == UNAVAILABLE


def test_a_bundle_without_a_runner_is_not_available(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="holds no runner") as caught:
        load(board(tmp_path, None))
    assert caught.value.code == UNAVAILABLE


@pytest.mark.parametrize(
    "program, said",
    [
        ("import sys; print('no libtvm', file=sys.stderr); sys.exit(4)", "code 4: no libtvm"),
        ("import os; os.write(1, b'hello'); os.close(1)", "does not answer"),
        ("import os, sys; os.write(1, b'R'); sys.stdin.buffer.read(9); os._exit(3)", "code 3"),
    ],
)
def test_a_runner_that_fails_is_told(tmp_path: Path, program: str, said: str) -> None:
    with pytest.raises(RunnerError, match=said) as caught:
        load(board(tmp_path, program)).run(IMAGES)
    assert caught.value.code == STAGE_FAILED


def test_measuring_that_fails_is_told(tmp_path: Path) -> None:
    session = load(board(tmp_path, GOOD.replace('{"samples_ms"', '{"others"')))
    with pytest.raises(RunnerError, match="cannot measure"):
        session.samples(IMAGES, 0.0, 7, 0.0)
    session.close()


def test_a_damaged_description_is_told(tmp_path: Path) -> None:
    model = board(tmp_path, GOOD)
    (tmp_path / "model.json").write_text("{}", "utf-8")
    with pytest.raises(RunnerError, match=r"model\.json is not readable"):
        load(model)
