"""What a rule can ask about a node: attributes with their defaults, shapes, constants, opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: largest constant whose values are looked at; sizes, axes and scales are all small
_SMALL = 64


@dataclass(frozen=True)
class NodeFacts:
    """A node of a graph with static shapes.

    Attributes:
        proto: the node.
        opset: of the graph.
        attributes: name -> value, with the operator's defaults; strings decoded.
        given: names of attributes that the node itself has.
        shapes: of its inputs; None where it is not known or the input is absent.
        made: of its outputs.
        kinds: element types of its inputs, ``onnx.TensorProto.DataType``; 0 where not known.
        inputs: per input "constant", "computed" or "absent".
        values: small constant inputs; None for others.
        read: per output, whether anything reads it.
        readers: operators that read the first output.
    """

    proto: NodeProto
    opset: int
    attributes: Mapping[str, Any]
    given: frozenset[str]
    shapes: tuple[tuple[int, ...] | None, ...]
    made: tuple[tuple[int, ...] | None, ...]
    kinds: tuple[int, ...]
    inputs: tuple[str, ...]
    values: tuple[NDArray[Any] | None, ...]
    read: tuple[bool, ...]
    readers: frozenset[str]

    def shape(self, index: int) -> tuple[int, ...] | None:
        """Of an input, None where there is none or it is not known."""
        return self.shapes[index] if index < len(self.shapes) else None

    def value(self, index: int) -> NDArray[Any] | None:
        """Of a small constant input."""
        return self.values[index] if index < len(self.values) else None


def node_facts(model: ModelProto) -> Iterator[NodeFacts]:
    """Of every node of the graph, in its order. Shapes are inferred; the model stays as it is."""
    from onnx import numpy_helper, shape_inference

    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # what is not known is not asked
        inferred = model.graph
    graph = model.graph
    types = {v.name: v.type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    stored = _stored(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    readers: dict[str, set[str]] = {value.name: set() for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)

    def shape(name: str) -> tuple[int, ...] | None:
        if name in stored:
            return tuple(stored[name].dims)
        kind = types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)

    def element(name: str) -> int:
        if name in stored:
            return int(stored[name].data_type)
        return int(types[name].tensor_type.elem_type) if name in types else 0

    def value(name: str) -> NDArray[Any] | None:
        tensor = stored.get(name)
        if tensor is None or int(np.prod(tensor.dims, dtype=np.int64)) > _SMALL:
            return None
        try:
            array: NDArray[Any] = numpy_helper.to_array(tensor)
        except Exception:  # weights that lie elsewhere
            return None
        return array

    for node in graph.node:
        given, attributes = _attributes(node, opset)
        yield NodeFacts(
            node,
            opset,
            attributes,
            given,
            tuple(shape(name) if name else None for name in node.input),
            tuple(shape(name) if name else None for name in node.output),
            tuple(element(name) if name else 0 for name in node.input),
            tuple(
                "absent" if not name else "constant" if name in stored else "computed"
                for name in node.input
            ),
            tuple(value(name) if name else None for name in node.input),
            tuple(bool(name) and name in readers for name in node.output),
            frozenset(readers.get(node.output[0], ()) if node.output else ()),
        )


def _stored(model: ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def _attributes(node: NodeProto, opset: int) -> tuple[frozenset[str], dict[str, Any]]:
    from onnx import defs, helper

    values: dict[str, Any] = {}
    try:
        schema = defs.get_schema(node.op_type, opset, node.domain)
        for name, attribute in schema.attributes.items():
            if attribute.default_value.type:
                values[name] = helper.get_attribute_value(attribute.default_value)
    except Exception:  # an operator of somebody else's domain has no schema here
        values = {}
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    values |= given
    return frozenset(given), {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value
