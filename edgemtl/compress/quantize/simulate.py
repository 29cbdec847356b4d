"""Run a graph with its quantisation simulated in float32, and read any of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.layers import Layer
from edgemtl.errors import StageFailed

if TYPE_CHECKING:
    from onnx import ModelProto

#: (1, 3, H, W) float32 -> tensor name -> value
Run = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]
#: pictures as a network is fed them, (1, 3, H, W) float32 each
Images = Sequence[NDArray[np.float32]]
#: first opset whose reductions take their axes as an input
AXES_AS_INPUT = 18


@dataclass(frozen=True)
class Channels:
    """Number of axes of a tensor, and the one its channels lie along."""

    rank: int
    axis: int


def simulation(model: ModelProto, tensors: Sequence[str] | None = None) -> Run:
    """A runner of a graph that returns these tensors (its outputs by default).

    Rounding is done by the QuantizeLinear and DequantizeLinear nodes as written, and everything
    between them in float32. Fused int8 kernels would round a little differently on every kind of
    processor (older ones also saturate where weights leave no room: backends/reduce_range.py), so a
    choice that is judged here does not depend on the machine it was made on.

    Raises:
        StageFailed: the graph cannot be loaded, or later, cannot run.
    """
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    if tensors is not None:
        del probe.graph.output[:]
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime raises many kinds
        raise StageFailed(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error
    names = [output.name for output in session.get_outputs()]
    feed = session.get_inputs()[0].name

    def run(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        try:
            values = session.run(names, {feed: images})
        except Exception as error:  # the runtime raises many kinds
            raise StageFailed(f"ONNX Runtime failed: {_first_line(error)}") from error
        return dict(zip(names, values, strict=True))

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def channel_statistic(
    model: ModelProto, tensors: Mapping[str, Channels], images: Images, largest: bool
) -> dict[str, NDArray[np.float64]]:
    """Per channel of these tensors: its mean over all positions and pictures, or its largest size.

    Computed inside the graph, so that no large tensor leaves it.

    Args:
        model: the graph.
        tensors: name -> where its channels lie.
        images: one picture each, (1, 3, H, W).
        largest: the largest magnitude instead of the mean.
    """
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    outputs = {}
    for index, (name, channels) in enumerate(tensors.items()):
        source, result = name, f"statistic_{index}"
        if largest:
            source = f"magnitude_{index}"
            probe.graph.node.append(onnx.helper.make_node("Abs", [name], [source]))
        axes = [axis for axis in range(channels.rank) if axis != channels.axis]
        operator = "ReduceMax" if largest else "ReduceMean"
        if opset < AXES_AS_INPUT:
            node = onnx.helper.make_node(operator, [source], [result], axes=axes, keepdims=0)
        else:
            held = onnx.numpy_helper.from_array(np.array(axes, np.int64), f"axes_{index}")
            probe.graph.initializer.append(held)
            node = onnx.helper.make_node(operator, [source, held.name], [result], keepdims=0)
        probe.graph.node.append(node)
        outputs[name] = result
    run = simulation(probe, list(outputs.values()))
    total: dict[str, NDArray[np.float64]] = {}
    for image in images:
        found = run(image)
        for name, result in outputs.items():
            value = found[result].astype(np.float64)
            if name not in total:
                total[name] = value
            elif largest:
                total[name] = np.maximum(total[name], value)
            else:
                total[name] = total[name] + value
    return {name: value / (1 if largest else len(images)) for name, value in total.items()}


def channels_of(model: ModelProto, layers: Sequence[Layer]) -> dict[str, Channels]:
    """Where the channels of what layers read and write lie, for tensors of known rank."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    found = {}
    for layer in layers:
        for name in (layer.source, layer.result):
            if name in ranks:
                axis = 1 if layer.op in ("Conv", "ConvTranspose") else ranks[name] - 1
                found[name] = Channels(ranks[name], axis)
    return found
