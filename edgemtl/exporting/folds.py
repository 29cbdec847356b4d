"""Exact folds on an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: operator -> positions of weight and bias among its inputs, axis of the output channels
_FOLDABLE = {"Conv": (1, 2, 0), "ConvTranspose": (1, 2, 1), "DeformConv": (1, 3, 0)}
_EPSILON = 1e-5  # ONNX default of BatchNormalization


def fold_batch_norms(model: ModelProto) -> int:
    """Fold each batch norm into the convolution that feeds only it, in place; returns how many.

    A batch norm at inference is ``scale * x + shift`` per channel, and so is absorbed exactly by a
    linear layer's weights (computed in float64, rounded once). The tensor that the norm wrote is
    then written by the convolution, under the same name.
    """
    from onnx import numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    writer = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1

    def values(name: str) -> NDArray[np.float64]:
        return numpy_helper.to_array(weights[name]).astype(np.float64)

    folded: list[NodeProto] = []
    for norm in graph.node:
        if norm.op_type != "BatchNormalization":
            continue
        layer = writer.get(norm.input[0])
        if layer is None or not _can_fold(layer, norm, weights, readers):
            continue
        at_weight, at_bias, axis = _FOLDABLE[layer.op_type]
        gamma, beta, mean, variance = (values(name) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), _EPSILON)
        scale = gamma / np.sqrt(variance + epsilon)
        weight = values(layer.input[at_weight])
        shape = [1] * weight.ndim
        shape[axis] = -1
        has_bias = len(layer.input) > at_bias and bool(layer.input[at_bias])
        bias = values(layer.input[at_bias]) if has_bias else np.zeros_like(mean)
        while len(layer.input) <= at_bias:
            layer.input.append("")
        for position, value, role in (
            (at_weight, weight * scale.reshape(shape), "weight"),
            (at_bias, (bias - mean) * scale + beta, "bias"),
        ):
            name = layer.input[position]
            if not name or readers[name] > 1:  # absent, or shared with a layer that is not folded
                name = f"{layer.name}.folded_{role}"
                layer.input[position] = name
                readers[name] = 1
                weights[name] = graph.initializer.add(name=name)
            weights[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
        layer.output[0] = norm.output[0]
        writer[norm.output[0]] = layer
        folded.append(norm)
    for norm in folded:
        graph.node.remove(norm)
    drop_unused_weights(model)
    return len(folded)


def inline_identities(model: ModelProto) -> None:
    """Let nodes read weights directly that they read through an Identity, in place.

    The exporter stores equal weights once and hands them on so.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    branches = _has_branches(graph)
    direct: dict[str, str] = {}
    for node in list(graph.node):
        node.input[:] = [direct.get(name, name) for name in node.input]
        if (
            node.op_type == "Identity"
            and node.input[0] in weights
            and node.output[0] not in outputs
        ):
            direct[node.output[0]] = node.input[0]
            if not branches:
                graph.node.remove(node)


def _has_branches(graph: GraphProto) -> bool:
    """Whether some node holds a graph of its own, which may read this one's tensors."""
    return any(a.HasField("g") for node in graph.node for a in node.attribute)


def _can_fold(
    layer: NodeProto,
    norm: NodeProto,
    weights: dict[str, TensorProto],
    readers: dict[str, int],
) -> bool:
    if layer.op_type not in _FOLDABLE or readers[norm.input[0]] != 1 or len(norm.output) != 1:
        return False
    at_weight, at_bias, _ = _FOLDABLE[layer.op_type]
    if layer.op_type == "ConvTranspose" and any(
        a.name == "group" and a.i != 1 for a in layer.attribute
    ):
        return False  # its output channels are split over two axes of the weight
    wanted = [layer.input[at_weight], *norm.input[1:5]]
    if len(layer.input) > at_bias and layer.input[at_bias]:
        wanted.append(layer.input[at_bias])
    return all(name in weights for name in wanted)


def drop_unused_weights(model: ModelProto) -> None:
    """Remove initializers that nothing reads, in place."""
    graph = model.graph
    if _has_branches(graph):
        return
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
