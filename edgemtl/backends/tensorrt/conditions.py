"""Under which attributes and inputs each TensorRT version takes an operator that it has.

From the importers' sources of 8.5, 8.6, 10.0 and 10.1, the vendor's operator pages, and what the
parser and builder of TensorRT-RTX 1.7.1 refused (tools/check_runtimes.py asks them again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.backends.tensorrt.settings import Version

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, TypeProto

#: largest K of TopK; the builder refuses more
MAX_TOPK = 3840
#: the plugin that scatters with a reduction; before, the importer reads the attribute of none
SCATTER_PLUGIN: Version = (10, 1)
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
class TableNode:
    """A node with what is known of its inputs.

    Attributes:
        proto: the node.
        version: of TensorRT.
        constants: of the graph, by name.
        types: of its values, by name, as far as they are known.
    """

    proto: NodeProto
    version: Version
    constants: Mapping[str, TensorProto]
    types: Mapping[str, TypeProto]

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

    def rank(self, index: int) -> int | None:
        """Of an input; None where it is not known."""
        stored = self.constant(index)
        if stored is not None:
            return len(stored.dims)
        kind = self.types.get(self.proto.input[index]) if self.has_input(index) else None
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return len(kind.tensor_type.shape.dim)

    def is_float(self, index: int) -> bool:
        """Whether an input is known to hold floats."""
        from onnx import TensorProto

        kind = self.types.get(self.proto.input[index]) if self.has_input(index) else None
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        return kind is not None and kind.tensor_type.elem_type in floats

    def spent(self, index: int) -> bool:
        """Whether an output is named at all."""
        return index < len(self.proto.output) and bool(self.proto.output[index])


def _array(tensor: TensorProto) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


def _topk(node: TableNode) -> Complaints:
    from onnx import numpy_helper

    k = node.constant(1)
    if k is None:
        yield "K is computed by the graph", "make K a constant (a fixed number of experts)"
    elif int(numpy_helper.to_array(k).ravel()[0]) > MAX_TOPK:
        yield f"K is more than {MAX_TOPK}", "select fewer, or select on the host"
    if node.attribute("sorted", 1) != 1:
        yield "the result is asked for unsorted", "export with sorted=True"


def _quantised(node: TableNode) -> Complaints:
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


def _cast(node: TableNode) -> Complaints:
    from onnx import TensorProto

    taken = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL}
    taken |= {TensorProto.INT32, TensorProto.INT64}
    if node.version >= (10, 0):
        taken |= {TensorProto.BFLOAT16}
    kind = int(node.attribute("to", TensorProto.FLOAT))
    if kind not in taken:
        name = TensorProto.DataType.Name(kind).lower()
        yield f"a cast to {name} is not there", "compute in float32, float16, int32 or bool"


def _efficient_nms(node: TableNode) -> Complaints:
    if len([name for name in node.proto.output if name]) != 4:
        yield "it has four outputs: count, boxes, scores, classes", "name all four"
    if not int(node.attribute("max_output_boxes", 0)):
        yield "it is not said how many boxes may stay", "set max_output_boxes"


def _layer_normalization(node: TableNode) -> Complaints:
    if any(node.proto.output[1:]):
        yield "mean and deviation are asked for too", "use the first output only"


def _scatter_nd(node: TableNode) -> Complaints:
    if node.attribute("reduction", "none") != "none":
        yield "the reduction is ignored", "scatter into zeros and add, or use ScatterElements"


def _resize(node: TableNode) -> Complaints:
    mode = node.attribute("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        yield f"mode '{mode}' is not there", "resize by nearest, bilinear or bicubic"
    if node.attribute("exclude_outside", 0):
        yield "exclude_outside is not there", "export with torch, which does not use it"
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


def _einsum(node: TableNode) -> Complaints:
    equation = str(node.attribute("equation", "")).replace(" ", "")
    if node.version >= (10, 0):
        return
    terms = equation.split("->")[0].split(",")
    if "..." in equation or any(len(set(term)) < len(term) for term in terms):
        yield "ellipsis and diagonals are not there", "write it as MatMul"


def _reshape(node: TableNode) -> Complaints:
    if node.constant(1) is None:
        yield "the shape is computed by the graph", "export with fixed shapes and simplify"


def _deform_conv(node: TableNode) -> Complaints:
    pads = list(node.attribute("pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        yield "the padding differs between the two sides", "export with deformable = 'portable'"


def _pool(node: TableNode) -> Complaints:
    if any(step != 1 for step in node.attribute("dilations", [])):
        yield "dilated pooling is not there", "pool without dilation"
    if node.proto.op_type == "MaxPool" and node.spent(1):
        yield "the places of the largest values are not there", "pool without return_indices"


def _conv_transpose(node: TableNode) -> Complaints:
    dilated = any(step != 1 for step in node.attribute("dilations", []))
    if dilated and any(step != 1 for step in node.attribute("strides", [])):
        advice = "convolve without dilation, or resize first and convolve then"
        yield "dilation together with a stride does not build", advice


def _lp_pool(node: TableNode) -> Complaints:
    if node.attribute("p", 2) not in (1, 2):
        yield "only p=1 and p=2 are there", "raise to the power, average, and take the root"
    yield from _pool(node)


def _mat_mul(node: TableNode) -> Complaints:
    first, second = node.rank(0), node.rank(1)
    if (
        first is not None
        and second is not None
        and min(first, second) == 1 < max(first, second) - 1
    ):
        yield "a vector with a batch of matrices is not there", "unsqueeze the vector first"


def _recurrent(node: TableNode) -> Complaints:
    if node.attribute("layout", 0):
        yield "layout=1 is not there", "export with batch_first=False, or transpose around it"


def _stft(node: TableNode) -> Complaints:
    if node.has_input(2) and node.constant(2) is None:
        yield "the window is computed by the graph", "export with fixed shapes and simplify"


def _reduction(node: TableNode) -> Complaints:
    if node.has_input(1) and node.constant(1) is None:
        yield "the axes are computed by the graph", "export with fixed shapes and simplify"


def _scatter_elements(node: TableNode) -> Complaints:
    reduction = node.attribute("reduction", "none")
    if reduction != "none" and node.version < SCATTER_PLUGIN:
        yield (
            f"reduction='{reduction}' is ignored without an error: a plain scatter runs instead",
            "sum by MatMul with a one-hot matrix, or take another board",
        )


def _batch_normalization(node: TableNode) -> Complaints:
    if node.attribute("training_mode", 0) or any(node.proto.output[1:]):
        yield "training mode is not there", "export in eval mode"


def _dropout(node: TableNode) -> Complaints:
    training = node.constant(2)
    known = training is not None and not np.any(_array(training))
    if node.has_input(2) and not known:
        yield "training mode is not there", "export in eval mode"


def _mod(node: TableNode) -> Complaints:
    # ONNX allows floats with fmod = 1 only.
    if not node.attribute("fmod", 0) and node.is_float(0):
        yield "fmod=0 on float numbers is not there", "export torch.fmod, or x - y * floor(x / y)"


def _one_hot(node: TableNode) -> Complaints:
    if node.constant(1) is None:
        yield "the depth is computed by the graph", "export with fixed shapes and simplify"


def _grid_sample(node: TableNode) -> Complaints:
    if node.rank(0) == 5:
        yield "sampling of volumes is not there", "sample slice by slice"


CONDITIONS: Mapping[str, Callable[[TableNode], Complaints]] = {
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
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _lp_pool,
    "MatMul": _mat_mul,
    "STFT": _stft,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    **dict.fromkeys(
        [f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min")]
        + ["ReduceProd", "ReduceSum", "ReduceSumSquare"],
        _reduction,
    ),
    "ConvTranspose": _conv_transpose,
    "ScatterElements": _scatter_elements,
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "Mod": _mod,
    "OneHot": _one_hot,
    "GridSample": _grid_sample,
}
#: plugins that every version on a board brings along (TensorRT-RTX has none)
PLUGINS: Mapping[str, Callable[[TableNode], Complaints]] = {"EfficientNMS_TRT": _efficient_nms}
#: operators whose conditions ask for types and ranks
ASK_TYPES = frozenset({"Mod", "GridSample", "MatMul"})
