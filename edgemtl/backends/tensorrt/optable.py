"""Which ONNX operators each TensorRT version takes, and under which conditions.

Facts from the vendor's operator tables of 8.5, 8.6, 10.0 and 10.1 (10.1 stands for 10.3, for which
no table was at hand) and from what TensorRT-RTX's builder was seen to refuse. Later versions are
held to the conditions of 10.1: a graph that keeps to them is taken by all. The table answers before
any parser is asked, because a parser of another version accepts what the device's refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.backends.tensorrt.settings import OPSET_LIMITS, Version
from edgemtl.backends.types import Problem

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: largest K of TopK; the builder refuses more
MAX_TOPK = 3840
FIRST: Version = (8, 5)
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil
Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample
HardSigmoid Identity InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax LRN
LpNormalization MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or Pad Pow PRelu
QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round ScatterElements
ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split
Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
#: operator -> first version that has it
SINCE: dict[str, Version] = {
    **dict.fromkeys(_NAMES.split(), FIRST),
    **dict.fromkeys(
        ("GroupNormalization", "HardSwish", "LayerNormalization", "Mod", "OneHot"), (8, 6)
    ),
    **dict.fromkeys(("CastLike", "DeformConv", "Gelu", "Hardmax", "IsInf", "Mish"), (10, 0)),
}
#: lowering.py writes these with older operators where the version lacks them
REWRITTEN: Mapping[str, str] = {
    "LayerNormalization": "means, differences and a square root",
    "HardSwish": "HardSigmoid and a product",
}
#: the parser takes some of them, but their shapes depend on the data: nothing could be checked here
_DATA_DEPENDENT = ("If", "Loop", "Scan", "NonZero", "Unique", "Compress", "SequenceAt")
_ADVICE: Mapping[str, str] = {
    "DeformConv": "export with deformable = 'portable'",
    "GroupNormalization": "export with opset 17, which writes it with older operators",
    "Gelu": "export with opset 17, which writes it by Erf",
}
_RESIZE_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)
#: complaints about a node: (reason, advice)
Complaints = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class _Node:
    """A node with what is known of its inputs."""

    proto: NodeProto
    version: Version
    constants: Mapping[str, TensorProto]

    def attribute(self, name: str, default: Any) -> Any:
        from onnx import helper

        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def has_input(self, index: int) -> bool:
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def constant(self, index: int) -> TensorProto | None:
        return self.constants.get(self.proto.input[index]) if self.has_input(index) else None


def table_problems(model: ModelProto, version: Version) -> list[Problem]:
    """Every node that this version does not take as it is, in the order of the graph.

    Args:
        model: with inferred or without; only constants and attributes are looked at.
        version: a key of ``OPSET_LIMITS``.

    Returns:
        Problems; those that lowering.py rewrites are not fatal.
    """
    named = f"TensorRT {version[0]}.{version[1]}"
    problems = list(_graph_problems(model, version, named))
    constants = _constants(model)
    for proto in model.graph.node:
        problems += _node_problems(_Node(proto, version, constants), named)
    return problems


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
    if version < (10, 0):
        from onnx import TensorProto

        kinds = {tensor.data_type for tensor in model.graph.initializer}
        if TensorProto.BFLOAT16 in kinds:
            yield Problem("", "", f"{named} has no bfloat16", "use float16 or float32")


def _node_problems(node: _Node, named: str) -> Iterator[Problem]:
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
            yield Problem(proto.name, op, reason, advice)


def _topk(node: _Node) -> Complaints:
    from onnx import numpy_helper

    k = node.constant(1)
    if k is None:
        yield "K is computed by the graph", "make K a constant (a fixed number of experts)"
    elif int(numpy_helper.to_array(k).ravel()[0]) > MAX_TOPK:
        yield f"K is more than {MAX_TOPK}", "select fewer, or select on the host"
    if node.attribute("sorted", 1) != 1:
        yield "the result is asked for unsorted", "export with sorted=True"


def _quantised(node: _Node) -> Complaints:
    from onnx import TensorProto, numpy_helper

    advice = "quantise symmetrically to int8, and leave biases in float32"
    data = node.constant(0)
    if data is not None and data.data_type == TensorProto.INT32:
        yield "a bias is stored as int32", advice
    zero = node.constant(2)
    if zero is None:
        if node.has_input(2):
            yield "the zero point is computed by the graph", advice
        elif node.proto.op_type == "QuantizeLinear":
            # Without a zero point the quantised type is uint8.
            yield "the quantised type is uint8", advice
    elif zero.data_type == TensorProto.UINT8:
        yield "the quantised type is uint8", advice
    elif np.any(numpy_helper.to_array(zero)):
        yield "the zero point is not zero", advice
    scale = node.constant(1)
    if scale is None:
        yield "the scale is computed by the graph", advice
    elif scale.data_type != TensorProto.FLOAT and node.version < (10, 0):
        yield "the scale is not float32", "quantise the float32 graph, then convert the rest"
    if node.attribute("block_size", 0) and node.version < (10, 0):
        yield "scales per block are not there", "quantise per channel"


def _cast(node: _Node) -> Complaints:
    from onnx import TensorProto

    taken = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL}
    taken |= {TensorProto.INT32, TensorProto.INT64}
    if node.version >= (10, 0):
        taken |= {TensorProto.BFLOAT16}
    kind = int(node.attribute("to", TensorProto.FLOAT))
    if kind not in taken:
        name = TensorProto.DataType.Name(kind).lower()
        yield f"a cast to {name} is not there", "compute in float32, float16, int32 or bool"


def _efficient_nms(node: _Node) -> Complaints:
    if len([name for name in node.proto.output if name]) != 4:
        yield "it has four outputs: count, boxes, scores, classes", "name all four"
    if not int(node.attribute("max_output_boxes", 0)):
        yield "it is not said how many boxes may stay", "set max_output_boxes"


def _layer_normalization(node: _Node) -> Complaints:
    if any(node.proto.output[1:]):
        yield "mean and deviation are asked for too", "use the first output only"


def _scatter_nd(node: _Node) -> Complaints:
    if node.attribute("reduction", "none") != "none":
        yield "the reduction is ignored", "scatter into zeros and add, or use ScatterElements"


def _resize(node: _Node) -> Complaints:
    mode = node.attribute("mode", "nearest")
    if mode not in ("nearest", "linear"):
        yield f"mode '{mode}' is not there", "resize by nearest or bilinear"
    if node.attribute("antialias", 0):
        yield "antialiasing is not there", "resize without antialias"
    coordinates = node.attribute("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _RESIZE_COORDINATES:
        yield f"coordinates '{coordinates}' are not there", "use half_pixel"
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        yield "the aspect ratio policy is not there", "give sizes or scales for both axes"
    for index in (2, 3):
        if node.has_input(index) and node.constant(index) is None:
            yield "the size is computed by the graph", "export with fixed shapes and simplify"


def _einsum(node: _Node) -> Complaints:
    equation = str(node.attribute("equation", "")).replace(" ", "")
    if node.version >= (10, 0):
        return
    terms = equation.split("->")[0].split(",")
    if "..." in equation or any(len(set(term)) < len(term) for term in terms):
        yield "ellipsis and diagonals are not there", "write it as MatMul"


def _reshape(node: _Node) -> Complaints:
    if node.constant(1) is None:
        yield "the shape is computed by the graph", "export with fixed shapes and simplify"


def _deform_conv(node: _Node) -> Complaints:
    pads = list(node.attribute("pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        yield "the padding differs between the two sides", "export with deformable = 'portable'"


def _average_pool(node: _Node) -> Complaints:
    if any(step != 1 for step in node.attribute("dilations", [])):
        yield "dilated pooling is not there", "pool without dilation"


CONDITIONS: Mapping[str, Callable[[_Node], Complaints]] = {
    "TopK": _topk,
    "Cast": _cast,
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _quantised,
    "LayerNormalization": _layer_normalization,
    "ScatterND": _scatter_nd,
    "Resize": _resize,
    "Einsum": _einsum,
    "Reshape": _reshape,
    "DeformConv": _deform_conv,
    "AveragePool": _average_pool,
}
#: plugins that every version on a board brings along (TensorRT-RTX has none)
PLUGINS: Mapping[str, Callable[[_Node], Complaints]] = {"EfficientNMS_TRT": _efficient_nms}
