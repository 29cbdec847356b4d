"""Pools and convolutions whose padding is written out, so that no runtime has to work it out."""

from __future__ import annotations

from edgemtl.backends.conformance.geometry import Window, windows
from edgemtl.backends.rewriting.writer import Writer

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def explicit_padding(writer: Writer) -> bool:
    """auto_pad and ceil_mode as pads.

    MaxPool never sees its padding, so more of it at the end changes nothing. AveragePool may count
    it: then the padding that counts becomes a Pad with zeros, and what ceil_mode adds behind it
    becomes padding that does not count.
    """
    found = windows(writer.facts)
    if found is None or any(window.out < 1 for window in found):
        return False
    op = writer.node.op_type
    if op == "Conv":
        pads = [w.begin for w in found] + [w.end for w in found]
        writer.copy(auto_pad=None, pads=pads)
        return True
    if op not in _POOLS or any(writer.facts.read[1:]):
        return False
    ends = [w.needed_end for w in found]
    if op == "AveragePool" and writer.attribute("count_include_pad", 0):
        return _average_counting(writer, found)
    if any(end < 0 for end in ends):
        # Windows end before the input does; the padding that nobody sees goes.
        ends = [max(end, 0) for end in ends]
    begins = [w.begin for w in found]
    if any(p >= w.reach for w, p in zip(found, begins, strict=True)):
        return False
    if any(p >= w.reach for w, p in zip(found, ends, strict=True)):
        return False
    writer.copy(auto_pad=None, ceil_mode=None, pads=[*begins, *ends])
    return True


def _average_counting(writer: Writer, found: list[Window]) -> bool:
    """Zeros that count in front of an average that sees no padding of its own.

    What ceil_mode lets a window reach beyond the padding does not count.
    """
    begins, ends = [w.begin for w in found], [w.end for w in found]
    beyond = [max(w.needed_end - w.end, 0) for w in found]
    if any(b >= w.reach for w, b in zip(found, beyond, strict=True)):
        return False
    wide = writer.node.input[0]
    if any((*begins, *ends)):
        pads = writer.whole([0, 0, *begins, 0, 0, *ends])
        wide = writer.add("Pad", [wide, pads, writer.scalar(0.0)], mode="constant")
    attributes = {
        "kernel_shape": [w.kernel for w in found],
        "strides": [w.stride for w in found],
        "pads": [*[0] * len(found), *beyond],
        "count_include_pad": 0,
    }
    if any(w.dilation != 1 for w in found):
        attributes["dilations"] = [w.dilation for w in found]
    writer.add("AveragePool", [wide], writer.node.output[0], **attributes)
    return True


def explicit_transpose(writer: Writer) -> bool:
    """output_shape and auto_pad of ConvTranspose-11 as pads and output_padding."""
    facts = writer.facts
    shape, weight, asked = facts.shape(0), facts.shape(1), facts.attributes
    if shape is None or weight is None:
        return False
    sizes, kernel = shape[2:], asked.get("kernel_shape") or weight[2:]
    axes = len(kernel)
    strides = asked.get("strides") or [1] * axes
    dilations = asked.get("dilations") or [1] * axes
    more = list(asked.get("output_padding") or [0] * axes)
    auto = asked.get("auto_pad", "NOTSET")
    wanted = asked.get("output_shape")
    if wanted is None and not auto.startswith("SAME"):
        return False
    wanted = wanted or [n * s for n, s in zip(sizes, strides, strict=True)]
    begins, ends = [], []
    for axis in range(axes):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        whole = strides[axis] * (sizes[axis] - 1) + more[axis] + reach
        total = whole - wanted[axis]
        if total < 0:
            # More than the kernels write: zeros at the end, where the runtime allows so many.
            more[axis] -= total
            total = 0
        half = total // 2
        begins.append(half if auto == "SAME_UPPER" else total - half)
        ends.append(total - half if auto == "SAME_UPPER" else half)
    allowed = [max(s, d) for s, d in zip(strides, dilations, strict=True)]
    if any(m >= a for m, a in zip(more, allowed, strict=True)):
        return False
    writer.copy(auto_pad=None, output_shape=None, pads=[*begins, *ends], output_padding=more)
    return True
