"""Which ONNX operators each TensorRT version takes, and under which conditions.

Facts from the vendor's operator tables and importers' sources of 8.5, 8.6, 10.0 and 10.1 (10.1
stands for 10.3, for which no table was at hand), from release notes of later ones, and from what
TensorRT-RTX's parser and builder were seen to refuse. Later versions are held to the conditions of
10.1 (conditions.py): a graph that keeps to them is taken by all. The table answers before any
parser is asked, because a parser of another version accepts what the device's refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from edgemtl.backends.tensorrt.conditions import ASK_TYPES, CONDITIONS, PLUGINS, TableNode
from edgemtl.backends.tensorrt.settings import OPSET_LIMITS, Version
from edgemtl.backends.types import Problem

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto, TypeProto

FIRST: Version = (8, 5)
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil
Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
GRU GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample HardSigmoid Identity InstanceNormalization IsNaN LSTM LeakyRelu Less
LessOrEqual Log LogSoftmax LRN LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mul Neg NonMaxSuppression Not Or Pad Pow PRelu RNN ReverseSequence
QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round ScatterElements
Scan Scatter ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu
Unsqueeze Upsample Where Xor
"""
#: operator -> first version that has it
SINCE: dict[str, Version] = {
    **dict.fromkeys(_NAMES.split(), FIRST),
    **dict.fromkeys(
        ("GroupNormalization", "HardSwish", "IsInf", "LayerNormalization", "Mod", "OneHot"), (8, 6)
    ),
    **dict.fromkeys(("CastLike", "Gelu", "Hardmax", "Mish"), (10, 0)),
    "DeformConv": (10, 1),
    **dict.fromkeys(("Attention", "RMSNormalization", "RotaryEmbedding"), (10, 14)),
    **dict.fromkeys(("STFT", "Swish"), (11, 0)),
}
#: lowering.py writes these with older operators where the version lacks them
REWRITTEN: Mapping[str, str] = {
    "LayerNormalization": "means, differences and a square root",
    "HardSwish": "HardSigmoid and a product",
}
#: the parser takes some of them, but their shapes depend on the data: nothing could be checked here
_DATA_DEPENDENT = ("If", "Loop", "NonZero", "Unique", "Compress", "SequenceAt")
_ADVICE: Mapping[str, str] = {
    "DeformConv": "export with deformable = 'portable'",
    "GroupNormalization": "export with opset 17, which writes it with older operators",
    "Gelu": "export with opset 17, which writes it by Erf",
}


#: what a board's version has and TensorRT-RTX lacks, or cannot plan without a driver: its refusal
#: says nothing about the board, which checks it when it builds
ONLY_ON_DEVICE: Mapping[str, str] = {
    "NonMaxSuppression": "",
    "RoiAlign": "",
    "Attention": "",
    "LSTM": "",
    "DeformConv": "",
    "ScatterElements": "reduction",
    **dict.fromkeys(PLUGINS, ""),
}


def device_only(model: ModelProto) -> dict[str, str]:
    """Node name -> operator of what only the device can say whether it builds."""
    return {
        node.name: node.op_type
        for node in model.graph.node
        if (attribute := ONLY_ON_DEVICE.get(node.op_type)) is not None
        and (
            not attribute
            or any(a.name == attribute and a.s not in (b"", b"none") for a in node.attribute)
        )
    }


def table_problems(model: ModelProto, version: Version) -> list[Problem]:
    """Every node that this version does not take as it is, in the order of the graph.

    Args:
        model: shapes are inferred where a condition asks for them.
        version: a key of ``OPSET_LIMITS``.

    Returns:
        Problems; those that lowering.py rewrites, and those that the device decides, are not fatal.
    """
    named = f"TensorRT {version[0]}.{version[1]}"
    problems = list(_graph_problems(model, version, named))
    constants, types = _constants(model), _types(model)
    for proto in model.graph.node:
        problems += _node_problems(TableNode(proto, version, constants, types), named)
    fatal = {problem.node for problem in problems if problem.fatal}
    problems += [
        Problem(
            name,
            op,
            f"whether {named} builds {op} can only be checked on the device",
            "nothing to do: the bundle's runner builds it there and says so",
            fatal=False,
        )
        for name, op in device_only(model).items()
        if name not in fatal and op not in (*PLUGINS, "NonMaxSuppression")
    ]
    return problems


def _types(model: ModelProto) -> dict[str, TypeProto]:
    """Types of values, where a condition asks for them."""
    from onnx import shape_inference

    if not any(node.op_type in ASK_TYPES for node in model.graph.node):
        return {}
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception:  # what is not known is not asked
        graph = model.graph
    return {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def _graph_problems(model: ModelProto, version: Version, named: str) -> Iterator[Problem]:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    limit = OPSET_LIMITS[version]
    if opset > limit:
        reason = f"the graph has opset {opset}, {named} reads up to {limit}"
        yield Problem("", "", reason, f"export with opset {min(limit, 17)}")
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
            reason = f"input '{value.name}' has no fixed shape"
            yield Problem("", "", reason, "export with fixed shapes")
    from onnx import TensorProto

    kinds = {tensor.data_type for tensor in model.graph.initializer}
    for kind in sorted(kinds & {TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}):
        name = TensorProto.DataType.Name(kind).lower()
        yield Problem("", "", f"{named} has no constants of {name}", "store them as int32 or int64")
    if version < (10, 0) and TensorProto.BFLOAT16 in kinds:
        yield Problem("", "", f"{named} has no bfloat16", "use float16 or float32")


def _node_problems(node: TableNode, named: str) -> Iterator[Problem]:
    proto = node.proto
    op = proto.op_type
    if op in PLUGINS and proto.domain in ("", "ai.onnx", "TRT"):
        for reason, advice in PLUGINS[op](node):
            yield Problem(proto.name, op, reason, advice)
    elif proto.domain not in ("", "ai.onnx"):
        full = f"{proto.domain}.{op}"
        reason = f"{named} does not know operators of domain '{proto.domain}'"
        yield Problem(proto.name, full, reason, "write the layer with standard operators")
    elif op in _DATA_DEPENDENT:
        reason = f"{op} makes shapes or control flow depend on the data"
        advice = "use a fixed capacity (TopK with constant K, masks) instead"
        yield Problem(proto.name, op, reason, advice)
    elif op not in SINCE:
        reason = f"{op} is not in the operator table of {named}"
        yield Problem(proto.name, op, reason, "replace the layer, or export with opset 17")
    elif SINCE[op] > node.version:
        if op in REWRITTEN:
            reason = f"{named} has no {op}; compile writes it as {REWRITTEN[op]}"
            yield Problem(proto.name, op, reason, "nothing to do", fatal=False)
        else:
            advice = _ADVICE.get(op, "replace the layer")
            yield Problem(proto.name, op, f"{named} has no {op}", advice)
    else:
        complain = CONDITIONS.get(op)
        for reason, advice in complain(node) if complain else ():
            yield Problem(proto.name, op, f"{named}: {reason}", advice)
        for attribute in proto.attribute:  # the body of a Scan
            for inner in attribute.g.node if attribute.HasField("g") else ():
                inside = TableNode(inner, node.version, node.constants, node.types)
                yield from _node_problems(inside, named)
