"""Reading an ONNX graph: who writes and reads what, and which tensors are int8 integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Weight:
    """Integers with a scale per output channel, the output channels first.

    Attributes:
        values: int8, (outputs, ...).
        scale: float32 per output channel.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


class Graph:
    """A graph with static shapes.

    Attributes:
        model: with inferred shapes.
        nodes: in order.
        constants: stored tensors.
        shapes: of all tensors whose shape is known and static.
        writer: tensor -> node that writes it.
        inputs, outputs: names.
    """

    def __init__(self, model: ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = self.model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}
        for group in (graph.input, graph.value_info, graph.output):
            for value in group:
                kind = value.type.tensor_type
                self.types[value.name] = kind.elem_type
                if kind.HasField("shape") and all(
                    dim.HasField("dim_value") for dim in kind.shape.dim
                ):
                    self.shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
        self.writer = {name: node for node in self.nodes for name in node.output if name}
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)

    def attribute(self, node: NodeProto, name: str, default: Any = None) -> Any:
        """Value of an attribute."""
        from onnx import helper

        found = next((a for a in node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def constant(self, node: NodeProto, position: int) -> NDArray[Any] | None:
        """A stored input of a node; None when it is computed or absent."""
        if len(node.input) <= position or not node.input[position]:
            return None
        return self.constants.get(node.input[position])

    def rounded(self, tensor: str) -> tuple[str, np.float32] | None:
        """(int8 tensor, scale) where this is an int8 tensor read back with one scale, else None."""
        node = self.writer.get(tensor)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] in self.constants:
            return None
        before = self.writer.get(node.input[0])
        if before is None or before.op_type != "QuantizeLinear":
            return None
        scale, zero = self.constant(node, 1), self.constant(node, 2)
        if scale is None or scale.ndim or zero is None or zero.dtype != np.int8 or zero.any():
            return None
        if before.input[1:] != node.input[1:]:
            return None
        return node.input[0], np.float32(scale)

    def weight(self, tensor: str, axis: int) -> Weight | None:
        """A stored int8 weight with a scale per channel along ``axis``, channels moved first."""
        node = self.writer.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        values, scale, zero = (self.constant(node, i) for i in range(3))
        if values is None or scale is None or values.dtype != np.int8:
            return None
        if zero is not None and zero.any():
            return None
        if scale.ndim == 1 and self.attribute(node, "axis", 1) % values.ndim != axis:
            return None
        moved = np.moveaxis(values, axis, 0)
        scales = np.broadcast_to(scale.astype(np.float32), (moved.shape[0],))
        return Weight(np.ascontiguousarray(moved), np.ascontiguousarray(scales))
