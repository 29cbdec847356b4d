"""What the accelerator takes: expressions of int8 tensors, read off the graph by a pattern table.

An expression ends where a QuantizeLinear rounds it; its leaves are tensors that were rounded
before. Limits, concatenations, poolings and nearest upsampling commute with that rounding and so
are done on integers; a function of one number becomes a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgemtl.backends.fpga.functions import DEEPEST, FUNCTIONS, Values
from edgemtl.backends.fpga.graph import Graph, Weight
from edgemtl.backends.fpga.program import Window

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True)
class Leaf:
    """An int8 tensor and its scale."""

    tensor: str
    scale: np.float32


@dataclass(frozen=True, eq=False)
class Sum:
    """A convolution or matrix product of an int8 tensor: int32 sums.

    Attributes:
        node: name of the graph's node; ``result`` is the tensor it writes.
        kind: "conv" (a matrix product is one with a single tap) or "depthwise".
        weight: (outputs, kernel, kernel, inputs) or (channels, kernel, kernel), with scales.
        bias: real values per output channel.
    """

    node: str
    result: str
    kind: str
    source: Leaf
    weight: Weight
    bias: Values
    window: Window


@dataclass(frozen=True)
class Limit:
    """A ReLU or Clip."""

    inside: Expression
    low: float
    high: float


@dataclass(frozen=True)
class Joined:
    """A concatenation along the channels."""

    parts: tuple[Expression, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Up:
    """Nearest upsampling by whole factors (vertical, horizontal)."""

    inside: Expression
    factor: tuple[int, int]
    node: str


@dataclass(frozen=True)
class Pool:
    """A maximum over windows."""

    inside: Expression
    window: Window
    node: str


@dataclass(frozen=True)
class Mean:
    """An average over windows without a border, or over the whole map."""

    inside: Expression
    window: Window
    node: str


@dataclass(frozen=True)
class Plus:
    """A sum of two tensors of one shape."""

    first: Expression
    second: Expression
    node: str


@dataclass(frozen=True, eq=False)
class Table:
    """A function of one number, of a sum of products."""

    inside: Sum
    function: Callable[[Values], Values]


Expression = Leaf | Sum | Limit | Joined | Up | Pool | Mean | Plus | Table


def expression(graph: Graph, tensor: str) -> Expression | None:
    """What a tensor is in the accelerator's terms; None where it is not the accelerator's."""
    if (leaf := graph.rounded(tensor)) is not None:
        return Leaf(*leaf)
    node = graph.writer.get(tensor)
    if node is None or tensor not in graph.shapes:
        return None
    reader = _READERS.get(node.op_type)
    found = reader(graph, node) if reader is not None else None
    return found or _function(graph, tensor)


def sum_of(graph: Graph, tensor: str) -> Sum | None:
    """A tensor that is a sum of products, its bias included; None where it is not."""
    node = graph.writer.get(tensor)
    if node is None or tensor not in graph.shapes:
        return None
    if node.op_type == "Conv":
        return _conv(graph, node)
    if node.op_type in ("MatMul", "Gemm"):
        return _product(graph, node)
    if node.op_type == "Reshape" and _same_tokens(graph, node):
        inside = sum_of(graph, node.input[0])
        return None if inside is None else replace(inside, result=tensor)
    return _biased(graph, node) if node.op_type == "Add" else None


def channel_axis(rank: int) -> int:
    """Axis of the channels."""
    return 1 if rank == 4 else rank - 1


def _same_tokens(graph: Graph, node: NodeProto) -> bool:
    """Whether a Reshape leaves a matrix of tokens as it lies in memory: (1, T, C) and (T, C)."""
    before, after = graph.shapes.get(node.input[0], ()), graph.shapes.get(node.output[0], ())
    return 0 < len(before) < 4 and 0 < len(after) < 4 and before[-1] == after[-1]


def _reshaped(graph: Graph, node: NodeProto) -> Expression | None:
    return expression(graph, node.input[0]) if _same_tokens(graph, node) else None


def _conv(graph: Graph, node: NodeProto) -> Sum | None:
    source = graph.rounded(node.input[0])
    weight = graph.weight(node.input[1], 0)
    shape, result = graph.shapes.get(node.input[0], ()), graph.shapes[node.output[0]]
    bias = _bias(graph, node, result[1] if len(result) == 4 else 0)
    auto = graph.attribute(node, "auto_pad", b"NOTSET")
    if source is None or weight is None or bias is None or len(shape) != 4 or shape[0] != 1:
        return None
    if weight.values.ndim != 4 or auto not in (b"NOTSET", b"VALID"):
        return None
    group = graph.attribute(node, "group", 1)
    depthwise = group == shape[1] == weight.values.shape[0] and group > 1
    if group != 1 and not depthwise:
        return None
    values = weight.values[:, 0] if depthwise else weight.values.transpose(0, 2, 3, 1)
    window = _window(graph, node, tuple(weight.values.shape[2:]))
    return Sum(
        node.name,
        node.output[0],
        "depthwise" if depthwise else "conv",
        Leaf(*source),
        Weight(np.ascontiguousarray(values), weight.scale),
        bias,
        window,
    )


def _bias(graph: Graph, node: NodeProto, size: int) -> Values | None:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(size)
    found = graph.constant(node, 2)
    return None if found is None or found.size != size else found.reshape(-1).astype(np.float64)


def _window(graph: Graph, node: NodeProto, kernel: tuple[int, ...]) -> Window:
    stride = graph.attribute(node, "strides", [1, 1])
    pads = graph.attribute(node, "pads", [0, 0, 0, 0])
    dilation = graph.attribute(node, "dilations", [1, 1])
    return Window(
        (kernel[0], kernel[1]), (stride[0], stride[1]), (pads[0], pads[1]), tuple(dilation)
    )


def _product(graph: Graph, node: NodeProto) -> Sum | None:
    """MatMul or Gemm by a stored matrix."""
    turned = node.op_type == "Gemm" and bool(graph.attribute(node, "transB", 0))
    source = graph.rounded(node.input[0])
    weight = graph.weight(node.input[1], 0 if turned else 1)
    if source is None or weight is None or weight.values.ndim != 2:
        return None
    if node.op_type == "Gemm" and (
        graph.attribute(node, "transA", 0)
        or graph.attribute(node, "alpha", 1.0) != 1.0
        or graph.attribute(node, "beta", 1.0) != 1.0
    ):
        return None
    outputs, inputs = weight.values.shape
    bias = _bias(graph, node, outputs)
    if bias is None or len(graph.shapes.get(node.input[0], (1,) * 4)) > 3:
        return None
    matrix = Weight(weight.values.reshape(outputs, 1, 1, inputs), weight.scale)
    return Sum(node.name, node.output[0], "conv", Leaf(*source), matrix, bias, Window())


def _limit(graph: Graph, node: NodeProto) -> Limit | None:
    inside = expression(graph, node.input[0])
    ends = [0.0, np.inf]
    if node.op_type == "Clip":
        for position, default in ((1, -np.inf), (2, np.inf)):
            given = len(node.input) > position and bool(node.input[position])
            value = graph.constant(node, position)
            if given and value is None:
                return None
            ends[position - 1] = default if value is None else float(value)
    return None if inside is None else Limit(inside, ends[0], ends[1])


def _joined(graph: Graph, node: NodeProto) -> Joined | None:
    rank = len(graph.shapes[node.output[0]])
    parts = [expression(graph, name) for name in node.input]
    if graph.attribute(node, "axis") % rank != channel_axis(rank):
        return None
    if any(part is None for part in parts):
        return None
    axis = channel_axis(rank)
    channels = tuple(graph.shapes[name][axis] for name in node.input)
    return Joined(tuple(part for part in parts if part is not None), channels)


def _up(graph: Graph, node: NodeProto) -> Up | None:
    before, after = graph.shapes.get(node.input[0], ()), graph.shapes[node.output[0]]
    inside = expression(graph, node.input[0])
    modes = [
        graph.attribute(node, key, default)
        for key, default in (
            ("mode", b"nearest"),
            ("coordinate_transformation_mode", b"half_pixel"),
            ("nearest_mode", b"round_prefer_floor"),
        )
    ]
    # These two read pixel y // factor for whole factors.
    usual = modes[1:] in ([b"asymmetric", b"floor"], [b"half_pixel", b"round_prefer_floor"])
    if inside is None or modes[0] != b"nearest" or not usual or len(before) != 4:
        return None
    if before[:2] != after[:2] or after[2] % before[2] or after[3] % before[3]:
        return None
    return Up(inside, (after[2] // before[2], after[3] // before[3]), node.name)


def _pool(graph: Graph, node: NodeProto) -> Pool | None:
    inside = expression(graph, node.input[0])
    shape = graph.shapes[node.output[0]]
    if inside is None or len(shape) != 4 or graph.attribute(node, "ceil_mode", 0):
        return None
    window = _window(graph, node, tuple(graph.attribute(node, "kernel_shape")))
    return Pool(inside, window, node.name)


def _mean(graph: Graph, node: NodeProto) -> Mean | None:
    inside, shape = expression(graph, node.input[0]), graph.shapes.get(node.input[0], ())
    if inside is None or len(shape) != 4:
        return None
    if node.op_type == "GlobalAveragePool":
        return Mean(inside, Window((shape[2], shape[3])), node.name)
    window = _window(graph, node, tuple(graph.attribute(node, "kernel_shape")))
    if any(graph.attribute(node, "pads", [0])) or graph.attribute(node, "ceil_mode", 0):
        return None
    return Mean(inside, window, node.name)


def _biased(graph: Graph, node: NodeProto) -> Sum | None:
    """A matrix product and its bias as two nodes."""
    for one, other in ((0, 1), (1, 0)):
        stored = graph.constants.get(node.input[other])
        inside = None if stored is None else sum_of(graph, node.input[one])
        if stored is None or inside is None:
            continue
        shape = graph.shapes[node.output[0]]
        if len(shape) == 4 or stored.size != shape[-1] or stored.shape[-1] != shape[-1]:
            return None
        return replace(inside, result=node.output[0], bias=inside.bias + stored.reshape(-1))
    return None


def _plus(graph: Graph, node: NodeProto) -> Expression | None:
    """A sum of two tensors, or the bias of a matrix product."""
    if any(name in graph.constants for name in node.input):
        return _biased(graph, node)
    shapes = [graph.shapes.get(name) for name in node.input]
    if shapes[0] is None or shapes[0] != shapes[1]:
        return None
    first, second = (expression(graph, name) for name in node.input)
    if first is None or second is None:
        return None
    return Plus(first, second, node.name)


def _function(graph: Graph, tensor: str) -> Table | None:
    """A chain of operators with single constants that reads one sum of products only."""
    sources: dict[str, Sum] = {}

    def collect(name: str, depth: int) -> bool:
        if name in graph.constants:
            return graph.constants[name].size == 1
        node = graph.writer.get(name)
        if node is None or depth > DEEPEST:
            return False
        found = sum_of(graph, name)
        if found is not None:
            sources[name] = found
            return True
        if node.op_type not in FUNCTIONS:
            return False
        return all(collect(read, depth + 1) for read in node.input if read)

    if tensor in graph.constants or not collect(tensor, 0) or len(sources) != 1:
        return None
    ((source, inside),) = sources.items()
    if source == tensor:
        return None

    def evaluate(name: str, x: Values) -> Values:
        if name == source:
            return x
        if name in graph.constants:
            return np.full_like(x, float(graph.constants[name].reshape(())))
        node = graph.writer[name]
        given = [evaluate(read, x) for read in node.input if read]
        attributes = {a.name: graph.attribute(node, a.name) for a in node.attribute}
        return FUNCTIONS[node.op_type](given, attributes)

    return Table(inside, lambda x: evaluate(tensor, x))


#: operator -> how the accelerator reads it
_READERS: dict[str, Callable[[Graph, NodeProto], Expression | None]] = {
    "Conv": _conv,
    "MatMul": _product,
    "Gemm": _product,
    "Relu": _limit,
    "Clip": _limit,
    "Concat": _joined,
    "Resize": _up,
    "MaxPool": _pool,
    "AveragePool": _mean,
    "GlobalAveragePool": _mean,
    "Add": _plus,
    "Reshape": _reshaped,
}


def bounds(found: Sum) -> tuple[Values, Values]:
    """Real values that a sum of products cannot leave: (lowest, highest) per channel."""
    scale = found.source.scale.astype(np.float64) * found.weight.scale.astype(np.float64)
    axes = tuple(range(1, found.weight.values.ndim))
    reach = np.abs(found.weight.values.astype(np.int64)).sum(axis=axes) * 127 * scale
    return found.bias - reach, found.bias + reach


def positions(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of a tensor of the graph."""
    if len(shape) == 4:
        return shape[2], shape[3], shape[1]
    return 1, prod(shape[:-1]), shape[-1]
