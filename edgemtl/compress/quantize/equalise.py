"""Rescale channels before quantisation, so that all of them use the few steps there are.

A tensor has one scale in int8. Where one channel reaches 100 and another 0.1, the second is lost.
Between two convolutions with an activation that keeps ratios (ReLU, leaky ReLU, none) a channel may
be divided by any positive factor in the first one's weights if the second one's are multiplied by
it: the network stays the same function (cross-layer equalisation; Nagel et al., ICCV 2019). Weights
have a scale per output channel, so dividing rows costs nothing; multiplying columns moves the
difficulty into the reader's weights. The factor therefore weighs both sides (Xiao et al.,
SmoothQuant, ICML 2023), except where every reader is depthwise and its weights scale freely too.

A concatenation counts as one tensor, so branches of unlike ranges are brought together as well. A
ReLU6 does not keep ratios, and a tensor that is also summed or returned must stay as it is: there
nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.layers import Layer
from edgemtl.compress.quantize.simulate import Channels, Images, channel_statistic

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: operators that a positive factor per channel passes through
RATIO_KEEPING = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize"}
)
#: weight of the activations' side; 0.5 was best of 0.3, 0.5 and 0.8 on mos_t (see the package)
BALANCE = 0.5
#: no channel is scaled by more than this, either way
LARGEST_FACTOR = 64.0
#: channels quieter than this share of the loudest count as that loud
QUIETEST = 1e-4
#: columns of a weight smaller than this share of its row's largest count as that large
SMALLEST_COLUMN = 1e-3


@dataclass(frozen=True)
class _Joint:
    """A tensor between layers: who writes its channels, in order, and who reads them."""

    tensor: str
    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]


def equalise(model: ModelProto, layers: Sequence[Layer], images: Images) -> tuple[ModelProto, int]:
    """An equal graph whose channels share their tensors' ranges well.

    Args:
        model: the float32 graph.
        layers: its layers.
        images: pictures that tell how large channels become.

    Returns:
        The graph, and the number of tensors that were rescaled.
    """
    import onnx
    from onnx import numpy_helper

    graph = _Graph(model, layers)
    joints = graph.joints()
    if not joints:
        return model, 0
    sizes = channel_statistic(
        model, {joint.tensor: Channels(4, 1) for joint in joints}, images, largest=True
    )
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    changed: dict[str, NDArray[np.float64]] = {}

    def value(name: str) -> NDArray[np.float64]:
        if name not in changed:
            changed[name] = values[name].astype(np.float64)
        return changed[name]

    for joint in joints:
        readers = [(value(layer.weight), graph.group(layer)) for layer in joint.readers]
        factors = balance(sizes[joint.tensor], readers)
        start = 0
        for layer in joint.writers:
            weight = value(layer.weight)
            own = factors[start : start + len(weight)]
            start += len(weight)
            weight /= own.reshape(-1, *[1] * (weight.ndim - 1))
            if (bias := graph.bias(layer)) is not None:
                changed[bias] = value(bias) / own
        for layer in joint.readers:
            weight = value(layer.weight)
            shape = [1] * weight.ndim
            shape[0 if graph.group(layer) > 1 else 1] = -1
            weight *= factors.reshape(shape)
    equal = onnx.ModelProto()
    equal.CopyFrom(model)
    for tensor in equal.graph.initializer:
        if tensor.name in changed:
            array = changed[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return equal, len(joints)


def balance(
    sizes: NDArray[np.float64], readers: Sequence[tuple[NDArray[np.float64], int]]
) -> NDArray[np.float64]:
    """(C,) what to divide each channel by.

    Args:
        sizes: (C,) largest magnitude per channel.
        readers: weight and number of groups of each reader; those with groups are depthwise.
    """
    loudest = float(sizes.max(initial=0))
    if loudest == 0:
        return np.ones_like(sizes)
    loud = np.maximum(sizes, loudest * QUIETEST)
    if all(groups > 1 for _, groups in readers):
        return np.clip(loud / loudest, 1 / LARGEST_FACTOR, 1)
    columns = np.full_like(loud, SMALLEST_COLUMN)
    for weight, groups in readers:
        if groups > 1:
            continue
        taps = np.abs(weight).reshape(weight.shape[0], weight.shape[1], -1).max(axis=2)
        rows = np.maximum(taps.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        columns = np.maximum(columns, (taps / rows).max(axis=0))
    factors = loud**BALANCE / columns ** (1 - BALANCE)
    factors /= np.exp(np.log(factors).mean())
    return np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR)


class _Graph:
    """Who reads and writes what."""

    def __init__(self, model: ModelProto, layers: Sequence[Layer]) -> None:
        self._outputs = {value.name for value in model.graph.output}
        self._nodes = {node.name: node for node in model.graph.node}
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self._writer: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = {}
        uses: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.output:
                self._writer[name] = node
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
                uses[name] = uses.get(name, 0) + 1
        self._layers: Mapping[str, Layer] = {
            layer.node: layer
            for layer in layers
            if layer.op == "Conv" and self._own(layer, uses) and self._simple(layer)
        }

    def group(self, layer: Layer) -> int:
        """Groups of a convolution: 1, or as many as it has channels."""
        node = self._nodes[layer.node]
        return next((int(a.i) for a in node.attribute if a.name == "group"), 1)

    def bias(self, layer: Layer) -> str | None:
        """Name of its bias."""
        inputs = self._nodes[layer.node].input
        return inputs[2] if len(inputs) > 2 and inputs[2] else None

    def _own(self, layer: Layer, uses: Mapping[str, int]) -> bool:
        """Whether its weight and bias are constants that no other node reads."""
        bias = self.bias(layer)
        known = bias is None or bias in self._shapes
        return known and uses[layer.weight] == 1 and (bias is None or uses[bias] == 1)

    def _simple(self, layer: Layer) -> bool:
        """Two-dimensional, and ordinary or depthwise with one output per channel."""
        shape = self._shapes[layer.weight]
        groups = self.group(layer)
        return len(shape) == 4 and (groups == 1 or (groups == shape[0] and shape[1] == 1))

    def joints(self) -> list[_Joint]:
        """The tensors whose channels may be rescaled, in the order of the graph."""
        found = []
        for tensor in dict.fromkeys(layer.source for layer in self._layers.values()):
            readers = self._readers[tensor]
            if not all(node.name in self._layers and node.input[0] == tensor for node in readers):
                continue
            writers = self._writers(tensor)
            if writers:
                own = tuple(self._layers[node.name] for node in readers)
                found.append(_Joint(tensor, tuple(writers), own))
        return found

    def _writers(self, tensor: str) -> list[Layer]:
        """Layers that write a tensor's channels, in order; none where that is not simple."""
        node = self._writer.get(tensor)
        if node is None or tensor in self._outputs:
            return []
        if node.name in self._layers:
            return [self._layers[node.name]]
        joined = node.op_type == "Concat" and any(
            a.name == "axis" and a.i == 1 for a in node.attribute
        )
        if not joined and (node.op_type not in RATIO_KEEPING or len(node.output) > 1):
            return []
        parts = []
        for name in node.input if joined else node.input[:1]:
            if len(self._readers[name]) > 1:
                return []
            writers = self._writers(name)
            if not writers:
                return []
            parts += writers
        return parts
