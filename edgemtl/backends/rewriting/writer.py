"""Replace nodes of a graph by others that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.conformance.facts import NodeFacts, node_facts

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: from this opset on the axes of all reductions are an input; before, of ReduceSum's alone
_AXES_ARE_INPUT, _SUM_AXES_ARE_INPUT = 18, 13
#: from this opset on the limits of Clip and the sizes of Pad are inputs
INPUTS_SINCE = 11


class Writer:
    """Collects the nodes and constants that stand for one node.

    Args:
        model: that the constants join.
        facts: of the node that is replaced; names of what is new begin with its name, so that it
            can still be found in a report.
    """

    def __init__(self, model: ModelProto, facts: NodeFacts) -> None:
        self._model = model
        self.node, self.facts = facts.proto, facts
        self._stem = self.node.name or self.node.output[0]
        self.nodes: list[NodeProto] = []

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        name = f"{self._stem}.constant{len(self.nodes)}_{len(self._model.graph.initializer)}"
        self._model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def scalar(self, value: float) -> str:
        """The name of a new float32 constant without axes."""
        return self.constant(np.asarray(value, np.float32))

    def whole(self, values: Sequence[int]) -> str:
        """The name of a new int64 vector."""
        return self.constant(np.asarray(values, np.int64))

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """A new node; the name of its output, by default a new one."""
        from onnx import helper

        name = f"{self._stem}/{op}{len(self.nodes)}"
        written = output or f"{name}.out"
        self.nodes.append(helper.make_node(op, list(inputs), [written], name, **attributes))
        return written

    def reduce(
        self, op: str, value: str, axes: Sequence[int] | None, keep: int, output: str = ""
    ) -> str:
        """A reduction as this opset writes it; None reduces all axes."""
        since = _SUM_AXES_ARE_INPUT if op == "ReduceSum" else _AXES_ARE_INPUT
        if axes is None:
            return self.add(op, [value], output, keepdims=keep)
        if self.facts.opset >= since:
            return self.add(op, [value, self.whole(axes)], output, keepdims=keep)
        return self.add(op, [value], output, axes=list(axes), keepdims=keep)

    def copy(self, **changed: Any) -> None:
        """The node itself with other attributes; None takes one out."""
        from onnx import NodeProto, helper

        copied = NodeProto()
        copied.CopyFrom(self.node)
        kept = [a for a in copied.attribute if a.name not in changed]
        del copied.attribute[:]
        copied.attribute.extend(kept)
        copied.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in changed.items()
            if value is not None
        )
        self.nodes.append(copied)

    def attribute(self, name: str, default: Any) -> Any:
        """Of the node, or the operator's default, or this one."""
        return self.facts.attributes.get(name, default)


#: writes what stands for a node; False when it cannot, and the node stays
Rewrite = Callable[[Writer], bool]


def rewrite(model: ModelProto, chosen: Callable[[NodeFacts], Rewrite | None]) -> Mapping[str, int]:
    """Replace nodes, in place.

    Args:
        model: static shapes.
        chosen: how to write a node; None leaves it.

    Returns:
        operator -> how many nodes of it were replaced; empty when none was.
    """
    counts: dict[str, int] = {}
    nodes: list[NodeProto] = []
    for facts in list(node_facts(model)):
        writing = chosen(facts)
        writer = Writer(model, facts)
        if writing is None or not writing(writer):
            nodes.append(facts.proto)
            continue
        nodes += writer.nodes
        counts[facts.proto.op_type] = counts.get(facts.proto.op_type, 0) + 1
    if counts:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return counts
