"""The layers of a graph that can be computed in int8: those with a constant weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgemtl.exporting.naming import module_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: operators with a weight as their second input
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with a constant weight.

    Attributes:
        node: ONNX node name, unique.
        op: operator.
        module: torch module path (exporting/naming.py).
        source: tensor it reads.
        weight: name of its weight.
        axis: of the weight, along which the output channels lie.
        result: tensor it writes.
    """

    node: str
    op: str
    module: str
    source: str
    weight: str
    axis: int
    result: str


def find_layers(model: ModelProto) -> tuple[Layer, ...]:
    """All layers that can be quantised, in the order of the graph."""
    from onnx import TensorProto

    weights = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    found = []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            continue
        source, weight = node.input[0], node.input[1]
        if weight not in weights or source in weights or len(weights[weight].dims) < 2:
            continue
        if node.op_type == "Gemm" and _attribute(node, "transA", 0):
            continue
        axis = _output_axis(node, len(weights[weight].dims))
        if axis is None:
            continue
        found.append(
            Layer(
                node.name, node.op_type, module_of(node.name), source, weight, axis, node.output[0]
            )
        )
    return tuple(found)


def _output_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of the weight along which outputs lie; None where they lie along several."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":  # weight (I, O / group, *kernel)
        return 1 if _attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1 if rank == 2 else None  # MatMul; a stack of matrices has an axis per matrix


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def regions(layers: Sequence[Layer], at_most: int) -> dict[str, tuple[Layer, ...]]:
    """Layers grouped by module path, as finely as ``at_most`` groups allow.

    Paths are cut shorter, the deepest first, until there are few enough; a region's name is the
    path its layers share (a layer's node name where nothing had to be cut).
    """
    depth = max((layer.module.count(".") + 1 for layer in layers), default=0)
    groups: dict[str, tuple[Layer, ...]] = {layer.node: (layer,) for layer in layers}
    while len(groups) > at_most and depth > 0:
        merged: dict[str, tuple[Layer, ...]] = {}
        for layer in layers:
            name = ".".join(layer.module.split(".")[:depth])
            merged[name] = (*merged.get(name, ()), layer)
        groups, depth = merged, depth - 1
    return groups
