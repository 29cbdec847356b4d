"""What backends make of an int8 graph (QuantizeLinear and DequantizeLinear around its layers).

A graph is written once for all runtimes, in signed int8 with zero point 0, the one form that
TensorRT reads (compress/quantize/qdq.py). Two things differ from runtime to runtime:

- Some compute such a graph in float32. ``Capabilities.int8_as_float`` says so.
- The CPU runtimes compute with unsigned inputs. A tensor that follows a ReLU uses only half of the
  signed range; :func:`unsigned_activations` gives it the unsigned one. The values that it clips at
  stay, its steps become half as large, and the runtime's own fusions (ReLU into the rounding) and
  its int8 kernels apply, which on ONNX Runtime is the difference between slower and faster than
  float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgemtl.backends.processor import int8_sums_saturate
from edgemtl.backends.reduce_range import wide_layers
from edgemtl.backends.types import Capabilities, Problem

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: steps of signed and of unsigned int8 above zero
_SIGNED, _UNSIGNED = 127, 255
#: operators whose result is negative only where an input is
_SIGN_KEEPING = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "Gather", "Identity", "Slice", "Split"}
    | {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
    | {"QuantizeLinear", "DequantizeLinear"}
)


def is_int8(model: ModelProto) -> bool:
    """Whether a graph rounds to int8 somewhere."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def int8_problems(able: Capabilities, path: Path) -> list[Problem]:
    """What to know before an int8 file runs by such a backend, here; nothing for other files.

    A backend that computes it in float32 anyway, or weights too large for the sums of this
    machine's processor (files that EdgeMTL did not write, or with ``narrow_sums = false``).
    """
    import onnx

    reason = able.int8_as_float
    saturates = able.host_int8 and int8_sums_saturate()
    if not reason and not saturates:
        return []
    try:
        model = onnx.load(path, load_external_data=False)
        if not is_int8(model):
            return []
        wide = [] if reason else wide_layers(model)
    except Exception:  # what cannot be read is the backend's own problem to tell
        return []
    if reason:
        advice = "expect the size of int8 and the speed of float32; keep fp32 for this target"
    elif wide:
        reason = (
            f"sums of int8 products can saturate in {len(wide)} layers, such as '{wide[0]}': this "
            "machine's processor has no VNNI"
        )
        advice = "quantise with quantize.narrow_sums = true, which leaves room for them"
    else:
        return []
    return [Problem("", "QuantizeLinear", reason, advice, fatal=False)]


def unsigned_activations(model: ModelProto) -> ModelProto:
    """A copy whose int8 tensors are unsigned where they cannot be negative.

    Each keeps the largest value it represents and gets 255 steps up to it instead of 127. A Clip
    in front that the rounding's own limits make superfluous is taken out. A graph without int8
    comes back equal.
    """
    import onnx
    from onnx import numpy_helper

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    writer = {name: node for node in graph.node for name in node.output}
    pairs = _pairs(list(graph.node), stored)
    added: set[str] = set()
    positive = _never_negative(list(graph.node), stored)
    for rounding, reading in pairs:
        if rounding.input[0] not in positive:
            continue
        scale, zero = stored[rounding.input[1]], stored[rounding.input[2]]
        step = numpy_helper.to_array(scale)
        # Rounded down, so that a clip at the same limit stays superfluous.
        finer = np.nextafter(step * np.float32(_SIGNED / _UNSIGNED), np.float32(0))
        for name, value in ((scale.name, finer), (zero.name, np.uint8(0))):
            unsigned = f"{name}_unsigned"
            if unsigned not in added:  # zero points are shared
                added.add(unsigned)
                graph.initializer.append(numpy_helper.from_array(np.asarray(value), unsigned))
            for node in (rounding, *reading):
                node.input[:] = [unsigned if given == name else given for given in node.input]
        before = writer.get(rounding.input[0])
        if before is not None and _clips_at(before, stored, float(step) * _SIGNED):
            rounding.input[0] = before.input[0]
    _drop_unread(copied)
    return copied


def _pairs(
    nodes: Sequence[NodeProto], stored: Mapping[str, TensorProto]
) -> list[tuple[NodeProto, list[NodeProto]]]:
    """Signed roundings with one scale and zero point 0, and who reads each back."""
    from onnx import numpy_helper

    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in nodes:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            continue
        if any(name not in stored for name in node.input[1:]):
            continue
        scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input[1:])
        reading = readers.get(node.output[0], [])
        if (
            scale.ndim == 0
            and zero.dtype == np.int8
            and not zero.any()
            and reading
            and all(
                other.op_type == "DequantizeLinear" and other.input[1:] == node.input[1:]
                for other in reading
            )
        ):
            found.append((node, reading))
    return found


def _never_negative(nodes: Sequence[NodeProto], stored: Mapping[str, TensorProto]) -> set[str]:
    """Tensors without negative values, whatever the picture."""
    from onnx import numpy_helper

    found = {
        name
        for name, tensor in stored.items()
        if tensor.dims and bool((numpy_helper.to_array(tensor) >= 0).all())
    }
    for node in nodes:
        if node.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp"):
            known = True
        elif node.op_type == "Clip":
            low = stored.get(node.input[1]) if len(node.input) > 1 else None
            known = node.input[0] in found or (
                low is not None and bool((numpy_helper.to_array(low) >= 0).all())
            )
        elif node.op_type in ("Concat", "Add", "Mul"):
            known = all(name in found for name in node.input)
        elif node.op_type == "Resize":
            # Cubic interpolation overshoots.
            mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
            known = mode in ("nearest", "linear") and node.input[0] in found
        else:
            known = node.op_type in _SIGN_KEEPING and node.input[0] in found
        if known:
            found.update(node.output)
    return found


def _clips_at(node: NodeProto, stored: Mapping[str, TensorProto], limit: float) -> bool:
    """Whether a node is a Clip to plus or minus this limit."""
    from onnx import numpy_helper

    if node.op_type != "Clip" or len(node.input) < 3:
        return False
    ends = [stored.get(name) for name in node.input[1:3]]
    if ends[0] is None or ends[1] is None:
        return False
    low, high = (float(numpy_helper.to_array(end)) for end in ends if end is not None)
    return abs(high - limit) <= 1e-5 * limit and low <= 0


def _drop_unread(model: ModelProto) -> None:
    """Take out Clips and constants that nothing reads any more."""
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    rebuilt = onnx.GraphProto()
    rebuilt.node.extend(
        node for node in graph.node if node.op_type != "Clip" or read.intersection(node.output)
    )
    read = {name for node in rebuilt.node for name in node.input}
    rebuilt.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.ClearField("value_info")
    graph.node.extend(rebuilt.node)
    graph.initializer.extend(rebuilt.initializer)
