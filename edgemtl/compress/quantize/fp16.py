"""Write float16 into a graph: explicit casts, inputs and outputs stay float32.

Done by the converter of ``onnxruntime.transformers.float16``; this module chooses what stays in
float32 and puts the nodes in order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from edgemtl.errors import StageFailed

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: operators whose sums or exponentials lose too much in 11 bits, or overflow beyond 65504
DELICATE = frozenset(
    {"Softmax", "LogSoftmax", "Sigmoid", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Div"}
    | {"ReduceMean", "ReduceSum", "ReduceL2", "LayerNormalization", "InstanceNormalization"}
    | {"CumSum", "TopK", "Resize", "GridSample"}
)


def to_float16(model: ModelProto, kept: Collection[str]) -> ModelProto:
    """A copy of the graph that computes in float16.

    Args:
        model: float32.
        kept: names of nodes that stay in float32, beside the delicate operators.

    Raises:
        StageFailed: the graph cannot be converted.
    """
    import onnx
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    try:
        halved: ModelProto = convert_float_to_float16(
            copied,
            keep_io_types=True,
            op_block_list=sorted({*DEFAULT_OP_BLOCK_LIST, *DELICATE}),
            node_block_list=sorted(kept),
        )
        _sort(halved)
        del halved.graph.value_info[:]
        onnx.checker.check_model(halved, full_check=True)
    except Exception as error:  # the converter raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(f"the graph cannot be written in float16: {reason}") from error
    return halved


def _sort(model: ModelProto) -> None:
    """Put nodes behind those they read from, otherwise in the order they were in."""
    graph = model.graph
    nodes = dict(enumerate(graph.node))
    writer = {name: index for index, node in nodes.items() for name in node.output}
    ordered: list[NodeProto] = []
    placed: set[int] = set()
    for start in nodes:
        pending = [start]
        while pending:
            index = pending[-1]
            before = {writer[name] for name in nodes[index].input if name in writer} - placed
            if before:
                pending += sorted(before, reverse=True)
                continue
            pending.pop()
            if index not in placed:
                placed.add(index)
                ordered.append(nodes[index])
    rebuilt = type(graph)()
    rebuilt.node.extend(ordered)
    graph.ClearField("node")
    graph.node.extend(rebuilt.node)
