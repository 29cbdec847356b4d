"""What of an ONNX graph TVM can take, found without loading TVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.backends.types import Problem
from edgemtl.errors import StageFailed

_NAMES = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip
Compress Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity If
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round Scatter ScatterElements ScatterND Selu
Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where
Xor
"""
#: operators of TVM 0.27's ONNX importer; a test compares this with the installed one
SUPPORTED = frozenset(_NAMES.split())


def read_graph(path: Path) -> Any:
    """A valid ONNX model with one static float32 input.

    Raises:
        StageFailed: it is not that.
    """
    import onnx

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx raise many kinds
        lines = (str(error).strip() or type(error).__name__).splitlines()
        raise StageFailed(f"the ONNX file is not valid: {lines[0]}") from error
    inputs = model.graph.input
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise StageFailed("the graph must have one float32 input")
    if not all(dim.dim_value > 0 for dim in inputs[0].type.tensor_type.shape.dim):
        raise StageFailed("the graph's input shape is not static")
    return model


def graph_problems(path: Path) -> list[Problem]:
    """What TVM's importer does not know, and what is no graph at all."""
    import onnx

    try:
        nodes = [(node.name, node.op_type, node.domain) for node in onnx.load(path).graph.node]
    except Exception:  # read_graph tells why
        nodes = []
    unknown = [
        Problem(
            name,
            op,
            f"TVM's importer has no operator {op}" + (f" of '{domain}'" if domain else ""),
            "export with another opset, or replace the layer",
        )
        for name, op, domain in nodes
        if op not in SUPPORTED or domain not in ("", "ai.onnx")
    ]
    if unknown:
        return unknown
    try:
        read_graph(path)
    except StageFailed as error:
        return [Problem("", "", error.message, "export the network again")]
    return []
