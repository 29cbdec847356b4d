"""The smallest graph a backend can be asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

ReluGraph = Callable[..., Path]


@pytest.fixture
def relu_graph(tmp_path: Path) -> ReluGraph:
    """Writes ``images -> Relu -> out`` at opset 17; shape and element type may be given."""

    def write(shape: Sequence[int | str] = (1, 3, 4, 4), kind: int = TensorProto.FLOAT) -> Path:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Relu", ["images"], ["out"], "layer.act/Relu")],
            "g",
            [value("images", kind, shape)],
            [value("out", kind, shape)],
        )
        opset = helper.make_opsetid("", 17)
        onnx.save(
            helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "relu.onnx"
        )
        (tmp_path / "out").mkdir()
        return tmp_path / "relu.onnx"

    return write
