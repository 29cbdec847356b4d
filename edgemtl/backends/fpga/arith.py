"""The accelerator's numbers, defined once; the NumPy reference and the HLS code both follow this.

- Activations and weights are int8 (-127..127), sums of products and biases int32.
- A sum becomes another scale's integer by :func:`requantise`: times a 16-bit multiplier, plus one
  half of the last bit, shifted right, limited. Halves are rounded up (towards plus infinity).
- A sum of two tensors uses a multiplier for each and one common shift; results that are added
  again are kept in int16 with :data:`FINER` times finer steps.
- A function of one number (GELU, sigmoid) is a table over the limited, requantised sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import StageFailed

Integers = NDArray[np.signedinteger[Any]]

#: bits of a multiplier: 32 x 17 bits are two DSP slices
MULTIPLIER_BITS = 16
MOST_SHIFT = 62
INT8 = (-127, 127)
INT16 = (-32767, 32767)
#: steps of an int16 intermediate per step of the int8 result it is for
FINER = 32
#: the same where many values are averaged, of which some are far larger than their mean
ROOMIER = 4
#: entries of a table: what one 18 Kbit block holds of 8-bit values
TABLE_SIZE = 2048


def multiplier_of(ratio: float) -> tuple[int, int]:
    """(multiplier, shift) with ``multiplier / 2**shift`` nearest to ``ratio``, 16 bits.

    Raises:
        StageFailed: the ratio is negative, not finite, or too large.
    """
    if not math.isfinite(ratio) or ratio < 0:
        raise StageFailed(f"scales with the ratio {ratio} cannot be converted")
    if ratio == 0:
        return 0, 1
    shift = MULTIPLIER_BITS - math.frexp(ratio)[1]
    if shift < 1:
        raise StageFailed(f"scales with the ratio {ratio:g} cannot be converted: it is too large")
    if shift > MOST_SHIFT:
        return 0, 1  # less than half a step of any sum
    multiplier = round(math.ldexp(ratio, shift))
    if multiplier == 1 << MULTIPLIER_BITS:
        if shift == 1:
            raise StageFailed(f"scales with the ratio {ratio:g} cannot be converted")
        return multiplier >> 1, shift - 1
    return multiplier, shift


def multipliers_of(ratios: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """:func:`multiplier_of` for each channel."""
    pairs = [multiplier_of(float(ratio)) for ratio in ratios]
    return np.array([m for m, _ in pairs], np.int32), np.array([s for _, s in pairs], np.int32)


def common_multipliers(first: float, second: float) -> tuple[int, int, int]:
    """(multiplier, multiplier, shift) for two operands of a sum."""
    _, shift = multiplier_of(max(first, second))
    return round(math.ldexp(first, shift)), round(math.ldexp(second, shift)), shift


def requantise(
    sums: Integers,
    multiplier: Integers | int,
    shift: Integers | int,
    low: int,
    high: int,
) -> NDArray[np.int64]:
    """``clamp((sums * multiplier + 2**(shift - 1)) >> shift, low, high)`` in 64 bits."""
    wide = sums.astype(np.int64) * np.asarray(multiplier, np.int64)
    bits = np.asarray(shift, np.int64)
    half = np.left_shift(np.int64(1), bits - 1)
    return np.clip(np.right_shift(wide + half, bits), low, high)
