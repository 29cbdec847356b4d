"""Small ONNX graphs written by hand, for what quantisation does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper


class GraphBuilder:
    """Adds nodes one by one; weights are random and repeatable."""

    def __init__(self, shape: Sequence[int] = (1, 3, 12, 12), seed: int = 0) -> None:
        self.shape = list(shape)
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A stored tensor."""
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output, named after it."""
        output = f"{name}/{op}_output_0"
        self._nodes.append(helper.make_node(op, inputs, [output], f"{name}/{op}", **attributes))
        return output

    def conv(
        self,
        source: str,
        name: str,
        outputs: int,
        inputs: int,
        kernel: int = 3,
        group: int = 1,
        weight: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> str:
        """A convolution of the same size."""
        shape = (outputs, inputs // group, kernel, kernel)
        if weight is None:
            weight = self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        if bias is None:
            bias = self.rng.normal(0, 0.1, outputs).astype(np.float32)
        read = [
            source,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
        ]
        pads = [kernel // 2] * 4
        return self.node("Conv", read, name, kernel_shape=[kernel, kernel], pads=pads, group=group)

    def build(self, *outputs: str, opset: int = 17) -> ModelProto:
        """The graph from ``images`` to these tensors."""
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "small",
            [value("images", TensorProto.FLOAT, self.shape)],
            [value(name, TensorProto.FLOAT, None) for name in outputs],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def images(self, count: int = 4) -> list[NDArray[np.float32]]:
        """Random inputs."""
        return [self.rng.normal(0, 1, self.shape).astype(np.float32) for _ in range(count)]


def run(model: ModelProto, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Outputs by the reference evaluation: ONNX Runtime without any optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": image}), strict=True))


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Root mean square of the difference over the wanted values' standard deviation."""
    return float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())


def write_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, tuple[int, ...]],
    shapes: tuple[Sequence[int], Sequence[int]],
) -> Path:
    """A graph from ``x`` to ``y`` of these shapes, its weights random and repeatable."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[1])],
        [
            numpy_helper.from_array(rng.standard_normal(n).astype(np.float32), k)
            for k, n in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def write_two_convolutions(path: Path) -> Path:
    """Two convolutions, each with bias and ReLU; the second reads single pixels."""
    nodes = [
        helper.make_node("Conv", ["x", "a", "a0"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "b", "b0"], ["y"]),
    ]
    weights = {"a": (16, 3, 3, 3), "b": (24, 16, 1, 1), "a0": (16,), "b0": (24,)}
    return write_graph(path, nodes, weights, ([1, 3, 9, 11], [1, 24, 9, 11]))
