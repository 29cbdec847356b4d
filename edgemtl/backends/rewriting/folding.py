"""Sizes that a graph computes from constants, computed here: what runtimes want as constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: what graphs compute sizes, axes and scales with
_NAMES = """
Add Cast CastLike Ceil Concat ConstantOfShape Div Equal Flatten Floor Gather Greater Identity Less
Max Min Mod Mul Neg Range ReduceProd Reshape Slice Sqrt Squeeze Sub Unsqueeze Where
"""
_SIZES = frozenset(_NAMES.split())
#: larger results are data, not sizes
_MOST_VALUES = 4096


def fold_sizes(model: ModelProto) -> int:
    """Replace, in place, nodes that compute sizes from constants by their results.

    Returns:
        how many.
    """
    from onnx import numpy_helper

    graph = model.graph
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if int(np.prod(tensor.dims, dtype=np.int64)) <= _MOST_VALUES and not tensor.external_data
    }
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    folded = 0
    for node in graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is not None:
            known[node.output[0]] = value
        elif (
            node.op_type in _SIZES
            and len(node.output) == 1
            and node.output[0] not in outputs
            and all(name in known for name in node.input if name)
        ):
            value = _computed(node, known, model)
            if value is not None:
                known[node.output[0]] = value
                graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
                folded += 1
                continue
        kept.append(node)
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def _constant(node: NodeProto) -> Any:
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value":
            value = numpy_helper.to_array(attribute.t)
            return value if value.size <= _MOST_VALUES else None
    return None


def _computed(node: NodeProto, known: dict[str, Any], model: ModelProto) -> Any:
    """The node's result, None where it cannot be told or is large."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    feeds = {name: known[name] for name in node.input if name}
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    made = helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)
    one = helper.make_model(
        helper.make_graph([node], "one", values, [made]), opset_imports=model.opset_import
    )
    try:
        (value,) = ReferenceEvaluator(one).run(None, feeds)
    except Exception:  # an operator's odd use: the node stays
        return None
    found = np.asarray(value)
    return found if found.size <= _MOST_VALUES and found.dtype.kind in "iubf" else None
