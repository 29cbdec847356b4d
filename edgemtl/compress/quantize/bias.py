"""Take the mean error that rounding makes in each channel out of the channel's bias.

Rounding weights shifts a channel's mean, because the same rounded weight meets inputs that are
never negative; so does rounding the inputs. The shift is measured layer by layer: each layer
computes once as it is and once rounded, both on the float network's own values, and the difference
of the means per channel is added to its bias (Nagel et al., ICCV 2019, section 4.2). Measured so,
the corrections of a layer and of those before it do not correct the same error twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.layers import Layer
from edgemtl.compress.quantize.simulate import Images, channel_statistic, channels_of

if TYPE_CHECKING:
    from onnx import ModelProto

#: appended to the names of the rounded copies
_COPY = "#rounded"


def bias_shifts(
    model: ModelProto, quantised: ModelProto, layers: Sequence[Layer], images: Images
) -> dict[str, NDArray[np.float32]]:
    """What to add to each layer's bias.

    Args:
        model: the float32 graph.
        quantised: the same with these layers quantised.
        layers: those layers; one without a bias of its own is left out.
        images: calibration pictures.

    Returns:
        Layer's node name -> (channels,).
    """
    channels = channels_of(model, layers)
    corrected = [
        layer
        for layer in layers
        if layer.result in channels and _bias_name(quantised, layer.node) is not None
    ]
    if not corrected:
        return {}
    both = _side_by_side(model, quantised, corrected)
    wanted = {layer.result: channels[layer.result] for layer in corrected}
    wanted |= {layer.result + _COPY: channels[layer.result] for layer in corrected}
    means = channel_statistic(both, wanted, images, largest=False)
    return {
        layer.node: (means[layer.result] - means[layer.result + _COPY]).astype(np.float32)
        for layer in corrected
    }


def shift_biases(quantised: ModelProto, shifts: Mapping[str, NDArray[np.float32]]) -> None:
    """Add the shifts to the biases of these nodes, in place; each gets a bias of its own."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    uses: dict[str, int] = {}
    for node in quantised.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in quantised.graph.node:
        if node.name not in shifts:
            continue
        tensor = stored[node.input[2]]
        value = numpy_helper.to_array(tensor) + shifts[node.name]
        if uses[tensor.name] == 1:
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        else:
            node.input[2] = f"{node.name}_bias"
            quantised.graph.initializer.append(numpy_helper.from_array(value, node.input[2]))


def _bias_name(model: ModelProto, name: str) -> str | None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name == name:
            own = len(node.input) > 2 and node.input[2] in constants
            return node.input[2] if own else None
    return None


def _side_by_side(model: ModelProto, quantised: ModelProto, layers: Sequence[Layer]) -> ModelProto:
    """The float graph with a rounded copy of each layer that reads the float graph's tensors."""
    import onnx

    both = onnx.ModelProto()
    both.CopyFrom(model)
    nodes = {node.name: node for node in quantised.graph.node}
    writer = {name: node for node in quantised.graph.node for name in node.output}
    present = {name for node in model.graph.node for name in node.output}
    for layer in layers:
        copied = onnx.NodeProto()
        copied.CopyFrom(nodes[layer.node])
        # What rounds its inputs: DequantizeLinear, before it QuantizeLinear, before that Clip.
        chain, name = [], copied.input[0]
        while name in writer and name not in present:
            chain.append(writer[name])
            name = writer[name].input[0]
        if copied.input[1] not in present:
            chain.append(writer[copied.input[1]])
        for node in reversed(chain):
            both.graph.node.append(node)
            present.update(node.output)
        copied.name += _COPY
        copied.output[0] += _COPY
        both.graph.node.append(copied)
    known = {tensor.name for tensor in both.graph.initializer}
    both.graph.initializer.extend(t for t in quantised.graph.initializer if t.name not in known)
    return both
