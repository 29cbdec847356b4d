"""Resize as one small matrix product per axis: it is linear, and its weights follow from sizes.

Coordinates and weights are those of the operator's definition (Resize-19): Keys 1981 for cubic
kernels; with ``antialias`` the kernel is widened by the inverse of the scale where it shrinks.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.conformance.geometry import lengths
from edgemtl.backends.rewriting.writer import Writer

#: a matrix of more values is not worth it; the node stays
MOST_VALUES = 1 << 22


def coordinate(position: int, size: int, out: int, scale: float, mode: str) -> float:
    """Where output ``position`` lies in the input.

    Args:
        position: in the output.
        size, out: of input and output.
        scale: as given, or out / size.
        mode: ``coordinate_transformation_mode``; not "tf_crop_and_resize".
    """
    # The length that the scale stands for, of which ``out`` is the whole part.
    resized = size * scale
    if mode == "align_corners":
        return position * (size - 1) / (resized - 1) if resized != 1 else 0.0
    if mode == "asymmetric":
        return position / scale
    if mode == "pytorch_half_pixel":
        return (position + 0.5) / scale - 0.5 if resized > 1 else 0.0
    if mode == "half_pixel_symmetric":
        adjusted = out / resized
        centre = size / 2
        return centre * (1 - adjusted) + (position + 0.5) / scale - 0.5
    return (position + 0.5) / scale - 0.5


def _cubic(x: float, a: float) -> float:
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _nearest(at: float, rounding: str) -> int:
    if rounding == "floor":
        return math.floor(at)
    if rounding == "ceil":
        return math.ceil(at)
    if rounding == "round_prefer_ceil":
        return math.floor(at + 0.5)
    return math.ceil(at - 0.5)


def resampling(size: int, out: int, scale: float, asked: dict[str, object]) -> NDArray[np.float32]:
    """(out, size) weights of one axis.

    Args:
        size, out: lengths.
        scale: as given, or out / size.
        asked: attributes of the operator, with defaults.
    """
    mode, kind = str(asked["mode"]), str(asked["coordinate_transformation_mode"])
    a = float(asked.get("cubic_coeff_a", -0.75))  # type: ignore[arg-type]
    wide = 1 / scale if asked.get("antialias") and scale < 1 else 1.0
    weights = np.zeros((out, size), np.float64)
    for position in range(out):
        at = coordinate(position, size, out, scale, kind)
        if mode == "nearest":
            taps = {_nearest(at, str(asked.get("nearest_mode", "round_prefer_floor"))): 1.0}
        else:
            reach = (1 if mode == "linear" else 2) * wide
            taps = {}
            for tap in range(math.ceil(at - reach), math.floor(at + reach) + 1):
                off = (tap - at) / wide
                weight = max(0.0, 1 - abs(off)) if mode == "linear" else _cubic(off, a)
                if asked.get("exclude_outside") and not 0 <= tap < size:
                    weight = 0.0
                taps[tap] = weight
            total = sum(taps.values())
            if (wide > 1 or asked.get("exclude_outside")) and total:
                taps = {tap: weight / total for tap, weight in taps.items()}
        for tap, weight in taps.items():
            weights[position, min(max(tap, 0), size - 1)] += weight
    return weights.astype(np.float32)


def resize(writer: Writer) -> bool:
    """A product with the weights along each axis that changes."""
    facts, asked = writer.facts, dict(writer.facts.attributes)
    axes = lengths(facts)
    if axes is None or asked.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    changed = [k for k, (size, out, scale) in enumerate(axes) if size != out or scale != 1.0]
    if not changed or any(axes[k][1] < 1 for k in changed):
        return False
    if any(axes[k][0] * axes[k][1] > MOST_VALUES for k in changed):
        return False
    rank, value = len(axes), facts.proto.input[0]
    # What shrinks most goes first: less is left for the others.
    changed.sort(key=lambda k: axes[k][1] / axes[k][0])
    for position, axis in enumerate(changed):
        last = position == len(changed) - 1
        value = _along(writer, value, axis, rank, resampling(*axes[axis], asked), last)
    return True


def _along(
    writer: Writer, value: str, axis: int, rank: int, weights: NDArray[np.float32], last: bool
) -> str:
    output = writer.node.output[0] if last else ""
    if rank >= 2 and axis == rank - 1:
        return writer.add("MatMul", [value, writer.constant(weights.T.copy())], output)
    if rank >= 2 and axis == rank - 2:
        return writer.add("MatMul", [writer.constant(weights), value], output)
    # Other axes are brought to the end and back.
    order = [k for k in range(rank) if k != axis] + [axis]
    if rank == 1:
        row = writer.add("Reshape", [value, writer.whole([1, -1])])
        made = writer.add("MatMul", [row, writer.constant(weights.T.copy())])
        return writer.add("Reshape", [made, writer.whole([-1])], output)
    turned = writer.add("Transpose", [value], perm=order)
    made = writer.add("MatMul", [turned, writer.constant(weights.T.copy())])
    back = [order.index(k) for k in range(rank)]
    return writer.add("Transpose", [made], output, perm=back)
