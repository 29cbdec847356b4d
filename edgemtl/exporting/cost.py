"""What one run of an ONNX graph costs, counted from shapes.

One multiply-accumulate (MAC) per product in convolutions and matrix products; element-wise work,
resampling and the bilinear gathers of deformable convolution are not counted, as is usual. A
deformable convolution counts as the ordinary one of its size (its offset convolution is a node of
its own), whether it is one DeformConv node or the portable form, whose mixing is a 1x1 convolution.

Shapes that depend on the data (how many tokens go to an expert) are those of one run on a noise
picture. For a mixture of experts the sum is exact all the same: every token goes to K of them, and
they are equally large.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemtl.errors import StageFailed
from edgemtl.exporting.module_cost import ModuleCost, NetworkCost, module_costs
from edgemtl.exporting.naming import module_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Cost", "ModuleCost", "NetworkCost", "NodeCost", "count_cost", "module_costs"]

#: bytes of an activation; activations are counted as float32 whatever they are stored as
ACTIVATION_BYTES = 4
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class NodeCost:
    """One node.

    Attributes:
        name: ONNX node name.
        op: ONNX operator.
        module: torch module path it came from.
        macs: multiply-accumulates of one run.
        parameters: weight elements it reads (a shared weight counts for its first reader).
        output_bytes: size of its outputs as float32.
    """

    name: str
    op: str
    module: str
    macs: int
    parameters: int
    output_bytes: int


@dataclass(frozen=True)
class Cost:
    """One run of a graph.

    Attributes:
        macs: multiply-accumulates.
        parameters: elements of all weights.
        activation_bytes: sum over all tensors that nodes write, as float32.
        peak_activation_bytes: most that is alive at once when nodes run in the order of the file
            and a tensor lives until its last reader ran (the input included, weights not).
        size_bytes: size of the file.
        per_node: every node that computes something, in the order of the file.
        uncounted: nodes whose work depends on the data (branches, loops) and is not in ``macs``.
    """

    macs: int
    parameters: int
    activation_bytes: int
    peak_activation_bytes: int
    size_bytes: int
    per_node: tuple[NodeCost, ...]
    uncounted: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["per_node"] = list(data["per_node"])
        data["uncounted"] = list(data["uncounted"])
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Cost:
        """Parse :meth:`to_dict`."""
        fields = {**data, "per_node": tuple(NodeCost(**node) for node in data["per_node"])}
        return Cost(**{**fields, "uncounted": tuple(data["uncounted"])})


def count_cost(onnx_path: Path) -> Cost:
    """Count a graph with static shapes.

    Raises:
        StageFailed: the file is no ONNX graph, or a shape is not known.
    """
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(
            onnx.load(onnx_path), strict_mode=True, data_prop=True
        )
    except Exception as error:  # protobuf and onnx raise many kinds for what they cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageFailed(f"the graph cannot be read: {reason}", where=onnx_path.name) from error
    shapes = _shapes(model)
    shapes.update(_seen_shapes(model, shapes))
    unread = _weight_sizes(model)
    parameters = sum(unread.values())
    per_node, uncounted = [], []
    for node in model.graph.node:
        if node.op_type in ("Constant", "Identity"):
            continue
        if any(attribute.HasField("g") for attribute in node.attribute):
            uncounted.append(node.name)
        per_node.append(
            NodeCost(
                node.name,
                node.op_type,
                module_of(node.name),
                _macs(node, shapes, onnx_path),
                sum(unread.pop(name, 0) for name in node.input),
                sum(_bytes(name, shapes, onnx_path) for name in node.output if name),
            )
        )
    return Cost(
        sum(node.macs for node in per_node),
        parameters,
        sum(node.output_bytes for node in per_node),
        _peak(model, shapes, onnx_path),
        onnx_path.stat().st_size,
        tuple(per_node),
        tuple(uncounted),
    )


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Static shapes of all tensors that have one."""
    from onnx import numpy_helper

    graph = model.graph
    found: dict[str, list[int]] = {t.name: list(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            found[value.name] = [d.dim_value for d in kind.shape.dim]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = list(numpy_helper.to_array(attribute.t).shape)
    return found


def _seen_shapes(model: ModelProto, known: Shapes) -> dict[str, list[int]]:
    """Shapes of the other tensors in one run, if NonZero makes them depend on the data."""
    import numpy as np
    import onnx
    import onnxruntime

    graph = model.graph
    if not any(node.op_type == "NonZero" for node in graph.node):
        return {}
    asked = [name for node in graph.node for name in node.output if name and name not in known]
    # A probe reads the shape and not the tensor, so that the run does not have to keep them all.
    probes = [f"{name}:shape" for name in asked]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for name, probe in zip(asked, probes, strict=True):
        probed.graph.node.append(onnx.helper.make_node("Shape", [name], [probe]))
        probed.graph.output.append(
            onnx.helper.make_tensor_value_info(probe, onnx.TensorProto.INT64, None)
        )
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    weights = {tensor.name for tensor in graph.initializer}
    try:
        session = onnxruntime.InferenceSession(
            probed.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        noise = np.random.default_rng(0)
        fed = {
            value.name: noise.standard_normal(known[value.name]).astype(np.float32)
            for value in graph.input
            if value.name not in weights
        }
        found = session.run(probes, fed)
    except Exception:  # an input without a shape, or what the runtime cannot run: not known then
        return {}
    return {name: [int(v) for v in shape] for name, shape in zip(asked, found, strict=True)}


def _weight_sizes(model: ModelProto) -> dict[str, int]:
    """Elements per weight: stored tensors of rank 1 and more of floating or 8-bit type."""
    from onnx import TensorProto

    kinds = {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
    }
    return {
        tensor.name: math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type in kinds and len(tensor.dims) > 0
    }


def _shape(name: str, shapes: Shapes, path: Path) -> Sequence[int]:
    if name not in shapes:
        raise StageFailed(
            f"the shape of tensor '{name}' is not known",
            where=path.name,
            hint="simplify the graph first (exporting/simplify.py): that settles shape arithmetic",
        )
    return shapes[name]


def _bytes(name: str, shapes: Shapes, path: Path) -> int:
    return ACTIVATION_BYTES * math.prod(_shape(name, shapes, path))


def _macs(node: NodeProto, shapes: Shapes, path: Path) -> int:
    """Multiply-accumulates of a node; 0 for operators that are not counted."""

    def size(name: str) -> Sequence[int]:
        return _shape(name, shapes, path)

    if node.op_type in ("Conv", "DeformConv", "ConvInteger"):
        # weight (O, I / group, *kernel): every output value sums over I / group * kernel products
        return math.prod(size(node.output[0])) * math.prod(size(node.input[1])[1:])
    if node.op_type == "QLinearConv":
        return math.prod(size(node.output[0])) * math.prod(size(node.input[3])[1:])
    if node.op_type == "ConvTranspose":
        # weight (I, O / group, *kernel): every input value is spread over O / group * kernel
        return math.prod(size(node.input[0])) * math.prod(size(node.input[1])[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        inner = size(node.input[0])[0 if transposed else 1]
        return math.prod(size(node.output[0])) * inner
    if node.op_type in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return math.prod(size(node.output[0])) * size(node.input[0])[-1]
    if node.op_type in ("LSTM", "GRU", "RNN"):
        # input (T, B, I) (with layout 1 (B, T, I)); every step multiplies by both weights
        steps = math.prod(size(node.input[0])[:2])
        return steps * sum(math.prod(size(name)) for name in node.input[1:3])
    if node.op_type == "Einsum":
        return _einsum_macs(node, [size(name) for name in node.input])
    return 0


def _einsum_macs(node: NodeProto, operands: Sequence[Sequence[int]]) -> int:
    """Product over all distinct indices: what a direct evaluation of two operands does."""
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    extents: dict[str, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), operands, strict=True):
        letters = [letter for letter in term if letter in string.ascii_letters]
        lead = len(shape) - len(letters)  # an ellipsis stands for these
        cut = term.replace(" ", "").find("...")
        cut = len(letters) if cut < 0 else cut
        names = letters[:cut] + [f"...{k}" for k in range(lead)] + letters[cut:]
        for name, extent in zip(names, shape, strict=True):
            extents[name] = max(extents.get(name, 1), extent)
    return math.prod(extents.values())


def _peak(model: ModelProto, shapes: Shapes, path: Path) -> int:
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    last_read = {name: i for i, node in enumerate(graph.node) for name in node.input}
    last_read.update({value.name: len(graph.node) for value in graph.output})
    alive = {v.name: _bytes(v.name, shapes, path) for v in graph.input if v.name not in weights}
    total = peak = sum(alive.values())
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant":
            continue
        for name in filter(None, node.output):
            alive[name] = _bytes(name, shapes, path)
            total += alive[name]
        peak = max(peak, total)
        for name in {*node.input, *node.output}:
            if name in alive and last_read.get(name, index) <= index:
                total -= alive.pop(name)
    return peak
