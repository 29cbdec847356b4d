"""How large every tensor of an exported graph is, as a function of the widths of the groups.

The groups say which dimensions of which weights they own. From there sizes are led through the
graph: a convolution's output has as many channels as its weight has rows, a concatenation holds
what its parts hold, and anything else grows with the largest tensor that it reads. That is exact
for the networks it was tried on (every tensor of forty cuts of mos_m.pt); where it is not (a
product whose two sides shrink by different groups) the size is off, and with it the time of that
layer alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.exporting.naming import module_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: a size as a function of the widths: (1 + groups,), constant first, then one rate per group
Size = NDArray[np.float64]
#: operators that multiply by a weight -> the weight's axis of output channels
_WEIGHTED = {"Conv": 0, "DeformConv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}


class GraphWidths:
    """Sizes of the tensors and weights of one exported graph.

    Args:
        model: exported from the dense network; its weights bear the names of their parameters, its
            nodes those of their modules (exporting/naming.py).
        groups: of that network.

    Attributes:
        groups: their names, in the order of the rates.
        dense: the sizes' argument for the dense network, (1 + groups,): 1, then the full widths.
        shapes: tensor -> its shape in the dense graph.
    """

    def __init__(self, model: ModelProto, groups: Sequence[ChannelGroup]) -> None:
        import onnx

        self.groups = tuple(group.name for group in groups)
        self._full = {group.name: group.width for group in groups}
        self.dense = np.array([1.0, *self._full.values()])
        self._owned = _owned_dimensions(groups)
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.name not in self._weights
        }
        self._sizes: dict[str, Size] = {}
        for value in model.graph.input:
            if value.name in self.shapes:
                self._sizes[value.name] = self._constant(value.name)
        for node in model.graph.node:
            for name in node.output:
                if name in self.shapes:
                    self._sizes[name] = self._size_of(node, name)

    def argument(self, widths: Mapping[str, int]) -> NDArray[np.float64]:
        """The sizes' argument: 1, then every group's width; the full one where none is given."""
        return np.array([1.0, *(widths.get(name, full) for name, full in self._full.items())])

    def channels(self, tensor: str) -> Size | None:
        """Channels of a tensor as a function of the widths; None for one that is not known.

        The second dimension of a map (B, C, H, W), the last one of anything else.
        """
        size, shape = self._sizes.get(tensor), self.shapes.get(tensor)
        if size is None or not shape:
            return None
        return size * (channels_of(shape) / max(float(size @ self.dense), 1.0))

    def positions(self, tensor: str) -> int:
        """Elements of a tensor per channel, in the dense graph; 0 for one that is not known."""
        shape = self.shapes.get(tensor, ())
        return int(np.prod(shape)) // max(channels_of(shape), 1) if shape else 0

    def weight(self, node: NodeProto) -> tuple[int, ...] | None:
        """Shape of the weight that a node multiplies by; None where it has none."""
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            return None
        return self._weights.get(node.input[1])

    def _constant(self, name: str) -> Size:
        size = np.zeros(len(self.groups) + 1)
        size[0] = float(np.prod(self.shapes[name]))
        return size

    def _size_of(self, node: NodeProto, name: str) -> Size:
        elements = float(np.prod(self.shapes[name]))
        read = [each for each in node.input if each in self._sizes]
        if (rows := self._rows(node)) is not None:
            return rows * (elements / float(rows @ self.dense))
        if node.op_type == "Concat" and len(read) == len(node.input):
            total: Size = np.sum([self._sizes[each] for each in read], axis=0)
            return total
        if not read:
            return self._constant(name)
        largest = max(read, key=lambda each: float(np.prod(self.shapes[each])))
        size = self._sizes[largest]
        return size * (elements / max(float(size @ self.dense), 1.0))

    def _rows(self, node: NodeProto) -> Size | None:
        """Output channels of a layer with a weight; None where it is not a parameter that we know.

        The exporter turns a linear layer's weight round and names it after its node; the parameter
        is then found by the module.
        """
        shape = self.weight(node)
        if shape is None:
            return None
        axis = _WEIGHTED[node.op_type]
        if node.op_type == "Gemm" and _transposed(node):
            axis = 0
        name, wanted = node.input[1], shape[axis]
        if node.op_type in ("Gemm", "MatMul") and name not in self._owned:
            name, axis = f"{module_of(node.name)}.weight", 0
        rows = np.zeros(len(self.groups) + 1)
        rows[0] = wanted
        for group, dim, per_unit in self._owned.get(name, ()):
            if dim == axis % len(shape):
                at = self.groups.index(group)
                rows[1 + at] += per_unit
                rows[0] -= per_unit * self._full[group]
        return rows if rows[0] >= 0 else None


def channels_of(shape: Sequence[int]) -> int:
    """Channels of a tensor of this shape: the second dimension of a map, the last of others."""
    return int(shape[1] if len(shape) == 4 else shape[-1])


def _owned_dimensions(
    groups: Sequence[ChannelGroup],
) -> dict[str, list[tuple[str, int, int]]]:
    """Parameter -> (group, dimension, positions per unit) of everything that owns a part of it."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    for group in groups:
        for member in group.members:
            found.setdefault(member.tensor, []).append((group.name, member.dim, member.per_unit))
    return found


def _transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
