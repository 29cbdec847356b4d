"""Sizes that follow from attributes: windows of pools and convolutions, axes of a Resize."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgemtl.backends.conformance.facts import NodeFacts


@dataclass(frozen=True)
class Window:
    """One axis of a pool or convolution.

    Attributes:
        size: of the input.
        kernel: taps.
        stride, dilation: steps between windows, and between taps.
        begin, end: padding.
        out: windows.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    out: int

    @property
    def reach(self) -> int:
        """From the first to the last tap."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def needed_end(self) -> int:
        """Padding behind the input with which the last window just fits; may be negative."""
        return (self.out - 1) * self.stride + self.reach - self.size - self.begin


def windows(facts: NodeFacts) -> list[Window] | None:
    """Every spatial axis of a pool or Conv as ONNX defines it; None where sizes are not known."""
    shape, attributes = facts.shape(0), facts.attributes
    if shape is None or any(extent < 0 for extent in shape):
        return None
    kernel = attributes.get("kernel_shape")
    if kernel is None:
        weight = facts.shape(1)
        if weight is None:
            return None
        kernel = weight[2:]
    sizes, axes = shape[2:], len(kernel)
    if len(sizes) != axes:
        return None
    strides = attributes.get("strides") or [1] * axes
    dilations = attributes.get("dilations") or [1] * axes
    pads = attributes.get("pads") or [0] * (2 * axes)
    auto, ceil = attributes.get("auto_pad", "NOTSET"), bool(attributes.get("ceil_mode", 0))
    found = []
    for axis in range(axes):
        size, step = sizes[axis], strides[axis]
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        begin, end = pads[axis], pads[axis + axes]
        if auto.startswith("SAME"):
            out = math.ceil(size / step)
            total = max((out - 1) * step + reach - size, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            end = total - begin
        else:
            if auto == "VALID":
                begin = end = 0
            steps = (size + begin + end - reach) / step
            out = (math.ceil(steps) if ceil else math.floor(steps)) + 1
            # A window that would start behind the input and its first padding is dropped.
            if ceil and (out - 1) * step >= size + begin:
                out -= 1
        found.append(Window(size, kernel[axis], step, dilations[axis], begin, end, out))
    return found


def lengths(facts: NodeFacts) -> list[tuple[int, int, float]] | None:
    """(size, out, scale) of every axis of a Resize with constant scales or sizes."""
    shape = facts.shape(0)
    if shape is None or any(extent < 1 for extent in shape):
        return None
    axes = facts.attributes.get("axes") or list(range(len(shape)))
    scales, sizes = facts.value(2), facts.value(3)
    found = [(extent, extent, 1.0) for extent in shape]
    if scales is not None and scales.size == len(axes):
        for axis, scale in zip(axes, scales.tolist(), strict=True):
            found[axis] = (shape[axis], math.floor(shape[axis] * scale), float(scale))
    elif sizes is not None and sizes.size == len(axes):
        policy = facts.attributes.get("keep_aspect_ratio_policy", "stretch")
        ratios = [int(n) / shape[axis] for axis, n in zip(axes, sizes, strict=True)]
        if policy != "stretch":
            one = min(ratios) if policy == "not_larger" else max(ratios)
            for axis in axes:
                found[axis] = (shape[axis], math.floor(one * shape[axis] + 0.5), one)
        else:
            for axis, n, ratio in zip(axes, sizes.tolist(), ratios, strict=True):
                found[axis] = (shape[axis], int(n), ratio)
    else:
        return None
    return found
