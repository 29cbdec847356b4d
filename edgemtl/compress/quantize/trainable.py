"""An ONNX graph as a torch module whose layers' weights can be trained while they are rounded.

Only operators that networks of convolutions are made of are known; a graph with others is refused,
and a graph that is not computed as ONNX Runtime computes it is not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.compress.quantize.layers import WEIGHTED, Layer
from edgemtl.compress.quantize.qdq import activation_scale
from edgemtl.compress.quantize.weights import LEVELS, quantise_weight
from edgemtl.errors import StageFailed

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Attributes = Mapping[str, Any]
#: operator -> what computes it from its inputs (None where one is left out) and attributes
Compute = Callable[[Sequence[Any], Attributes], Tensor]


def rounded(value: Tensor, scale: Tensor) -> Tensor:
    """A value as int8 represents it; gradients pass where it is inside the range.

    The rounding itself counts as the identity (straight-through estimator; Bengio et al., 2013).
    """
    inside = torch.minimum(torch.maximum(value, -LEVELS * scale), LEVELS * scale)
    stepped = torch.round(inside / scale) * scale
    return inside + (stepped - inside).detach()


class TrainableGraph(nn.Module):
    """A graph for one picture at a time, rounded at the same places as the int8 file.

    Args:
        model: float32 graph with static shapes.
        layers: which compute in int8.
        magnitudes: tensor -> largest magnitude that its rounding represents.
        reduce_range: as for the file (weights.py).

    Raises:
        StageFailed: an operator is not known.
    """

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        magnitudes: Mapping[str, float],
        reduce_range: bool = False,
    ) -> None:
        from onnx import numpy_helper

        super().__init__()
        self.rounding = True
        self._reduce_range = reduce_range
        self._feed = model.graph.input[0].name
        self._outputs = [value.name for value in model.graph.output]
        self._nodes = list(model.graph.node)
        self._attributes = [_attributes(node) for node in self._nodes]
        unknown = sorted({node.op_type for node in self._nodes} - set(_COMPUTE))
        if unknown:
            raise StageFailed(f"no training through {', '.join(unknown)}")
        self._layers = {layer.node: layer for layer in layers}
        self._scales = {
            layer.source: torch.tensor(activation_scale(magnitudes[layer.source]))
            for layer in layers
        }
        trained = {name for node in self._nodes if node.op_type in WEIGHTED for name in node.input}
        self._constants: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        for tensor in model.graph.initializer:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if tensor.name in trained and value.is_floating_point():
                self._names[tensor.name] = f"weight_{len(self._names)}"
                self.register_parameter(self._names[tensor.name], nn.Parameter(value))
            else:
                self._constants[tensor.name] = value

    def trained(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Initialiser name -> its value now."""
        return {
            name: self.get_parameter(own).detach().numpy().astype(np.float32)
            for name, own in self._names.items()
        }

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(1, 3, H, W) -> the graph's outputs by name."""
        plain: dict[str, Tensor] = {self._feed: image}
        read: dict[str, Tensor] = {}

        def value(name: str, rounds: bool) -> Tensor | None:
            if not name:
                return None
            if name in self._names:
                return self.get_parameter(self._names[name])
            if name in self._constants:
                return self._constants[name]
            if not (self.rounding and rounds and name in self._scales):
                return plain[name]
            if name not in read:
                read[name] = rounded(plain[name], self._scales[name])
            return read[name]

        for node, attributes in zip(self._nodes, self._attributes, strict=True):
            layer = self._layers.get(node.name)
            rounds = layer is not None or node.op_type not in WEIGHTED
            inputs = [value(name, rounds) for name in node.input]
            if layer is not None and self.rounding:
                weight = inputs[1]
                assert weight is not None
                inputs[1] = rounded(weight, self._weight_scale(weight, layer.axis))
            plain[node.output[0]] = _COMPUTE[node.op_type](inputs, attributes)
        return {name: plain[name] for name in self._outputs}

    def _weight_scale(self, weight: Tensor, axis: int) -> Tensor:
        values = weight.detach().numpy()
        _, scales = quantise_weight(values, axis, reduce_range=self._reduce_range)
        shape = [1] * weight.dim()
        shape[axis] = -1
        return torch.from_numpy(scales).reshape(shape)


def _attributes(node: NodeProto) -> Attributes:
    from onnx.helper import get_attribute_value

    return {
        attribute.name: value.decode() if isinstance(value, bytes) else value
        for attribute in node.attribute
        for value in [get_attribute_value(attribute)]
    }


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    image, weight, bias = (*inputs, None)[:3]
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise StageFailed("no training through a convolution with automatic padding")
    padding = (top, left)
    if (top, left) != (bottom, right):
        image, padding = F.pad(image, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        image,
        weight,
        bias,
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=padding,
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=attributes.get("group", 1),
    )


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    left, right, bias = (*inputs, None)[:3]
    if attributes.get("transB", 0):
        right = right.t()
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + attributes.get("beta", 1.0) * bias


def _clip(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    value, low, high = (*inputs, None, None)[:3]
    if low is not None:
        value = torch.maximum(value, low)
    clipped: Tensor = value if high is None else torch.minimum(value, high)
    return clipped


def _resize(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    image, _, scales, sizes = (*inputs, None, None)[:4]
    if sizes is not None and sizes.numel():
        size = [int(extent) for extent in sizes[2:]]
    else:
        factors = [float(factor) for factor in scales[2:]]
        size = [
            int(extent * factor) for extent, factor in zip(image.shape[2:], factors, strict=True)
        ]
    if attributes.get("mode", "nearest") == "nearest":
        return F.interpolate(image, size=size, mode="nearest")
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    image = F.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(
        image, tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", (1, 1)))
    )


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    value, shape = inputs[0], [int(extent) for extent in inputs[1]]
    return value.reshape([value.shape[i] if e == 0 else e for i, e in enumerate(shape)])  # type: ignore[no-any-return]


def _depth_to_space(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes.get("mode", "DCR") != "CRD":
        raise StageFailed("no training through DepthToSpace in DCR order")
    return F.pixel_shuffle(inputs[0], attributes["blocksize"])


_COMPUTE: dict[str, Compute] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda x, a: x[0] @ x[1],
    "Relu": lambda x, a: F.relu(x[0]),
    "LeakyRelu": lambda x, a: F.leaky_relu(x[0], a.get("alpha", 0.01)),
    "PRelu": lambda x, a: torch.where(x[0] >= 0, x[0], x[0] * x[1]),
    "Clip": _clip,
    "Sigmoid": lambda x, a: torch.sigmoid(x[0]),
    "Softplus": lambda x, a: F.softplus(x[0]),
    "Softmax": lambda x, a: torch.softmax(x[0], dim=a.get("axis", -1)),
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Concat": lambda x, a: torch.cat(list(x), dim=a["axis"]),
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
    "Reshape": _reshape,
    "Flatten": lambda x, a: x[0].flatten(a.get("axis", 1)),
    "Identity": lambda x, a: x[0],
    "Resize": _resize,
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda x, a: x[0].mean(dim=(2, 3), keepdim=True),
    "DepthToSpace": _depth_to_space,
}
