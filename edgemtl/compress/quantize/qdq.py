"""Write int8 into a graph: QuantizeLinear and DequantizeLinear around its layers.

The form is the one that every runtime here reads as int8: activations and weights symmetric int8
with zero point 0, weights per output channel, biases in float32 (TensorRT refuses a quantised
bias: an INT32 DequantizeLinear). Nothing else of the graph changes; nodes and tensors keep their
names (names.py shortens those inside when the file is written).

Where it is rounded. A layer reads its input through one pair, and its result is not rounded by
itself: the convolution, its bias and its activation are one step of exact accumulation, and only
what a later layer reads is rounded, once. The last layers of the heads so answer in float32, and
outputs that are concatenated (levels, or scores beside boxes) never share a scale. Whatever else
reads a rounded tensor (a residual sum, an upsampling) reads it rounded too, so that one int8
tensor is kept in memory and not a float one beside it; layers that stay in float32 read it
unrounded.

Concatenations. OpenVINO 2026.4.1 computes a convolution wrongly that reads a concatenation of
signed int8 tensors: it moves the rounding in front of the concatenation and then loses the zero
point by which it made the tensors unsigned (the answer is off by a third of its spread;
tests/unit/compress/quantize/test_quantize_runtimes.py reproduces it). It does so on every processor
whose int8 kernels want unsigned inputs, VNNI included; those for AMX take signed ones, and are
right. The file is the same for all, and so are its clips. A Clip to the calibrated range, plus
and minus 127 steps, keeps it from doing so and changes no value inside that range. (A Clip to
exactly what the rounding saturates at, -128 steps, is taken for superfluous and does not help.)
Where values cannot be negative the backends take the Clip away again (backends/int8.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.layers import WEIGHTED, Layer
from edgemtl.compress.quantize.weights import LEVELS, SMALLEST_SCALE, quantise_weight

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: operators that hand on values as they are, so that what follows a concatenation is still one
MOVING = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Identity", "MaxPool", "Resize", "Pad", "Split", "Slice"}
    | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather", "Flatten"}
    | {"DepthToSpace", "SpaceToDepth"}
)


def activation_scale(magnitude: float) -> np.float32:
    """Scale of a tensor whose values are within plus or minus ``magnitude``."""
    return np.float32(max(magnitude / LEVELS, SMALLEST_SCALE))


def insert_qdq(
    model: ModelProto,
    layers: Sequence[Layer],
    magnitudes: Mapping[str, float],
    reduce_range: bool = False,
) -> ModelProto:
    """A copy of the graph in which these layers compute in int8.

    Args:
        model: float32, opset 13 or later.
        layers: which to quantise; the others stay as they are and read unrounded inputs.
        magnitudes: tensor name -> largest magnitude to represent, for every layer's input.
        reduce_range: whether two products have to fit 16 bits (weights.py).
    """
    import onnx

    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    writer = _Writer(quantised, layers, magnitudes, reduce_range)
    nodes = list(writer.nodes(list(graph.node)))
    rebuilt = onnx.GraphProto()
    rebuilt.node.extend(nodes)
    graph.ClearField("node")
    graph.node.extend(rebuilt.node)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in (*graph.initializer, *writer.constants) if tensor.name in used]
    rebuilt.initializer.extend(kept)
    graph.ClearField("initializer")
    graph.initializer.extend(rebuilt.initializer)
    graph.ClearField("value_info")
    return quantised


class _Writer:
    """Rewrites the nodes of one graph.

    Attributes:
        constants: tensors that the new nodes read.
    """

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        magnitudes: Mapping[str, float],
        reduce_range: bool,
    ) -> None:
        from onnx import numpy_helper

        self.constants: list[TensorProto] = []
        self._input_names = [value.name for value in model.graph.input]
        self._chosen = {layer.node: layer for layer in layers}
        self._sources = {layer.source for layer in layers}
        self._magnitudes, self._reduce_range = magnitudes, reduce_range
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._to_array = numpy_helper.to_array
        self._from_array = numpy_helper.from_array
        self._joined = _concatenated(model)
        self._rounded: dict[str, str] = {}
        self._weights: dict[tuple[str, str], str] = {}
        self._zero_points: set[str] = set()

    def nodes(self, nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
        """The nodes with theirs in between, in topological order."""
        for name in self._input_names:
            yield from self._round(name)
        for node in nodes:
            layer = self._chosen.get(node.name)
            if layer is not None:
                yield from self._weight(layer, node)
                node.input[0] = self._rounded[layer.source]
            elif node.op_type not in WEIGHTED:
                node.input[:] = [self._rounded.get(name, name) for name in node.input]
            yield node
            for name in node.output:
                yield from self._round(name)

    def _constant(self, value: NDArray[np.generic] | np.generic, name: str) -> str:
        self.constants.append(self._from_array(np.asarray(value), name))
        return name

    def _zeros(self, value: NDArray[np.int8] | np.int8, name: str) -> str:
        """Zero points are shared: one each would weigh in a narrow network's file."""
        if name not in self._zero_points:
            self._zero_points.add(self._constant(value, name))
        return name

    def _round(self, tensor: str) -> Iterator[NodeProto]:
        """The pair behind a tensor, where a chosen layer reads it."""
        from onnx.helper import make_node

        if tensor not in self._sources:
            return
        step = activation_scale(self._magnitudes[tensor])
        scale = self._constant(step, f"{tensor}_scale")
        zero = self._zeros(np.int8(0), "int8_zero")
        source = tensor
        if tensor in self._joined:
            source = f"{tensor}_clipped"
            ends = [
                self._constant(np.float32(steps * step), f"{tensor}_{end}")
                for steps, end in ((-LEVELS, "lowest"), (LEVELS, "highest"))
            ]
            yield make_node("Clip", [tensor, *ends], [source], name=f"{tensor}_Clip")
        whole, back = f"{tensor}_quantized", f"{tensor}_dequantized"
        yield make_node(
            "QuantizeLinear", [source, scale, zero], [whole], name=f"{tensor}_QuantizeLinear"
        )
        yield make_node(
            "DequantizeLinear", [whole, scale, zero], [back], name=f"{tensor}_DequantizeLinear"
        )
        self._rounded[tensor] = back

    def _weight(self, layer: Layer, node: NodeProto) -> Iterator[NodeProto]:
        """Let a layer read its weight from int8; layers that share both share it."""
        from onnx.helper import make_node

        bias = node.input[2] if len(node.input) > 2 else ""
        if (layer.weight, bias) not in self._weights:
            base = layer.weight if not self._weights_named(layer.weight) else node.name
            integers, scales = quantise_weight(
                self._to_array(self._stored[layer.weight]),
                layer.axis,
                self._to_array(self._stored[bias]) if bias in self._stored else None,
                float(activation_scale(self._magnitudes[layer.source])),
                self._reduce_range,
            )
            back = f"{base}_dequantized"
            yield make_node(
                "DequantizeLinear",
                [
                    self._constant(integers, f"{base}_quantized"),
                    self._constant(scales, f"{base}_scale"),
                    self._zeros(np.zeros(len(scales), np.int8), f"int8_zeros_{len(scales)}"),
                ],
                [back],
                name=f"{node.name}_weight_DequantizeLinear",
                axis=layer.axis,
            )
            self._weights[layer.weight, bias] = back
        node.input[1] = self._weights[layer.weight, bias]

    def _weights_named(self, weight: str) -> bool:
        return any(known == weight for known, _ in self._weights)


def _concatenated(model: ModelProto) -> set[str]:
    """Tensors that are a concatenation along the channels, or one moved about."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Concat" or (node.op_type in MOVING and node.input[0] in found):
            found.update(node.output)
    return found
