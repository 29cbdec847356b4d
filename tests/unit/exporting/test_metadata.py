"""What an ONNX file says of itself, which anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import InputRefused
from edgemtl.exporting.metadata import KEY, read_metadata, write_metadata
from edgemtl.tasks import Depth


def graph(path: Path, output: str = "depth") -> Path:
    """One Identity node."""
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 3, 8, 8)) for n in ("x", output)
    ]
    node = helper.make_node("Identity", ["x"], [output])
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    onnx.save(model, path)
    return path


def described(path: Path, change: Any) -> None:
    """Write the description with a change."""
    write_metadata(path, [Depth("depth")], InputSpec((8, 8)))
    model = onnx.load(path)
    (entry,) = [e for e in model.metadata_props if e.key == KEY]
    entry.value = change(entry.value)
    onnx.save(model, path)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = graph(tmp_path / "m.onnx", Depth("depth").outputs[0])
    write_metadata(path, [Depth("depth")], InputSpec((8, 8)))
    tasks, spec = read_metadata(path)
    assert [task.spec() for task in tasks] == [Depth("depth").spec()]
    assert spec == InputSpec((8, 8))


def test_an_output_that_is_absent_is_named(tmp_path: Path) -> None:
    path = graph(tmp_path / "m.onnx", "another")
    write_metadata(path, [Depth("depth")], InputSpec((8, 8)))
    with pytest.raises(InputRefused, match="names the output 'depth"):
        read_metadata(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "[" * 100_000 + "]" * 100_000,
        lambda text: '{"tasks": ' + "[" * 100_000,
        lambda text: json.dumps({**json.loads(text), "input": None}),
        lambda text: json.dumps({**json.loads(text), "tasks": [1]}),
        lambda text: json.dumps({**json.loads(text), "tasks": 1}),
        lambda text: "9" * 5000,
        lambda text: text.replace('"depth"', '"de\\u001b[2Jpth"'),
        lambda text: text.replace('"depth"', '"de\\npth"'),
    ],
)
def test_descriptions_that_are_none_are_refused(tmp_path: Path, change: Any) -> None:
    path = graph(tmp_path / "m.onnx", Depth("depth").outputs[0])
    described(path, change)
    with pytest.raises(InputRefused):
        read_metadata(path)
