"""Rewrites of an ONNX graph into operators that an older TensorRT has. All are exact on paper.

Only what the version lacks is rewritten. Export at opset 17 has already written GELU by Erf, group
normalisation by older operators and deformable convolution portably (exporting/deformable.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.tensorrt.optable import SINCE
from edgemtl.backends.tensorrt.settings import Version

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


class _Writer:
    """Collects the nodes and constants that stand for one node.

    Args:
        node: the node that is replaced; names of what is new begin with its name, so that it can
            still be found in a report.
    """

    def __init__(self, model: ModelProto, node: NodeProto) -> None:
        self._model = model
        self._stem = node.name or node.output[0]
        self.node = node
        self.nodes: list[NodeProto] = []

    def constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"{self._stem}.constant{len(self.nodes)}_{len(self._model.graph.initializer)}"
        self._model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.asarray(value, np.float32))

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = f"{self._stem}/{op}{len(self.nodes)}"
        written = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, list(inputs), [written], name, **attributes))
        return written

    def attribute(self, name: str, default: Any) -> Any:
        from onnx import helper

        found = [a for a in self.node.attribute if a.name == name]
        value = helper.get_attribute_value(found[0]) if found else default
        return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True)
class _Input:
    """What is known of a node's first input: None where shape inference does not tell."""

    rank: int | None = None
    kind: int | None = None


def _layer_normalization(writer: _Writer, known: _Input) -> None:
    """Ba et al. 2016, equation 4: (x - mean) / sqrt(variance + epsilon), scaled and shifted.

    Float16 is computed in float32: squares overflow beyond 256.
    """
    from onnx import TensorProto

    node, rank = writer.node, known.rank
    half = known.kind == TensorProto.FLOAT16
    inputs = list(node.input)
    if half:
        inputs = [writer.add("Cast", [n], to=TensorProto.FLOAT) if n else "" for n in inputs]
    first = int(writer.attribute("axis", -1))
    if first < 0:
        axes = list(range(first, 0))
    elif rank is None:
        raise ValueError(f"the rank of '{node.input[0]}' is not known")
    else:
        axes = list(range(first, rank))
    mean = writer.add("ReduceMean", [inputs[0]], axes=axes, keepdims=1)
    centred = writer.add("Sub", [inputs[0], mean])
    squared = writer.add("Mul", [centred, centred])
    variance = writer.add("ReduceMean", [squared], axes=axes, keepdims=1)
    epsilon = writer.scalar(float(writer.attribute("epsilon", 1e-5)))
    deviation = writer.add("Sqrt", [writer.add("Add", [variance, epsilon])])
    normal = writer.add("Div", [centred, deviation])
    has_bias = len(inputs) > 2 and bool(inputs[2])
    last = "" if half else node.output[0]
    made = writer.add("Mul", [normal, inputs[1]], "" if has_bias else last)
    if has_bias:
        made = writer.add("Add", [made, inputs[2]], last)
    if half:
        writer.add("Cast", [made], node.output[0], to=TensorProto.FLOAT16)


def _hard_swish(writer: _Writer, known: _Input) -> None:
    """Howard et al. 2019, section 5.2: x times max(0, min(1, x/6 + 1/2))."""
    node = writer.node
    gate = writer.add("HardSigmoid", [node.input[0]], alpha=1 / 6, beta=0.5)
    writer.add("Mul", [node.input[0], gate], node.output[0])


_REWRITES: dict[str, Callable[[_Writer, _Input], None]] = {
    "LayerNormalization": _layer_normalization,
    "HardSwish": _hard_swish,
}


def lower(model: ModelProto, version: Version) -> dict[str, int]:
    """Rewrite, in place, what this TensorRT version does not have.

    Args:
        model: float32 or float16, opset 13 to 17 (later ones make the axes of ReduceMean an
            input).
        version: of the device.

    Returns:
        operator -> how many nodes of it were rewritten; empty when nothing had to be.
    """
    wanted = {op for op in _REWRITES if SINCE[op] > version}
    counts: dict[str, int] = {}
    nodes = list(model.graph.node)
    if not any(node.op_type in wanted for node in nodes):
        return counts
    inputs = _inputs(model)
    rewritten: list[NodeProto] = []
    for node in nodes:
        if node.op_type not in wanted or node.domain not in ("", "ai.onnx"):
            rewritten.append(node)
            continue
        writer = _Writer(model, node)
        _REWRITES[node.op_type](writer, inputs.get(node.input[0], _Input()))
        rewritten += writer.nodes
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    del model.graph.node[:]
    model.graph.node.extend(rewritten)
    return counts


def _inputs(model: ModelProto) -> dict[str, _Input]:
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds = {v.name: v.type.tensor_type for v in values}
    return {name: _Input(len(kind.shape.dim), kind.elem_type) for name, kind in kinds.items()}
