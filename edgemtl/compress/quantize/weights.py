"""Weights as int8: integers, a scale per output channel, and what they must fit into.

A reduced range. Where processors add products in 16 bits (backends/reduce_range.py), a channel's
scale is made as coarse as it takes for every two neighbours to fit. Where few weights are large and
have large neighbours that costs little; the usual remedy, 7 bits for all (``reduce_range`` of ONNX
Runtime's ``quantize_static``), costs every channel half of its steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.reduce_range import LARGEST_PAIR, largest_pairs

#: int8 without -128, so that the range is symmetric
LEVELS = 127
#: scale of a tensor that is always zero
SMALLEST_SCALE = 1e-9
#: a bias must be representable in int32 at the product of both scales, which is how ONNX Runtime
#: adds it (and a backend may halve the input's scale); an eighth of that range is used
LARGEST_BIAS = 2.0**28
#: a scale that is too fine by rounding alone is made so much coarser
NUDGE = 1 + 2**-10


def quantise_weight(
    weight: NDArray[np.float32],
    axis: int,
    bias: NDArray[np.float32] | None = None,
    input_scale: float = 1.0,
    reduce_range: bool = False,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers of the weight's shape, and a scale per channel along ``axis``.

    A channel whose weights are tiny beside its bias gets a coarser scale than they need, or the
    bias would overflow int32.

    Args:
        weight: of a convolution or matrix product.
        axis: 0 or 1, along which the output channels lie; the input channels lie along the other.
        bias: (output channels,).
        input_scale: step of the layer's input.
        reduce_range: see the module.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=others) / LEVELS, SMALLEST_SCALE)
    if bias is not None and bias.shape == scales.shape:
        scales = np.maximum(scales, np.abs(bias) / (input_scale * LARGEST_BIAS))
    scales = scales.astype(np.float32)
    integers = _integers(weight, axis, scales)
    while reduce_range:
        excess = largest_pairs(integers, axis) / LARGEST_PAIR
        if (excess <= 1).all():
            break
        scales = np.where(excess > 1, scales * np.maximum(excess, NUDGE), scales)
        scales = scales.astype(np.float32)
        integers = _integers(weight, axis, scales)
    return integers, scales


def _integers(
    weight: NDArray[np.float32], axis: int, scales: NDArray[np.float32]
) -> NDArray[np.int8]:
    shape = [1] * weight.ndim
    shape[axis] = -1
    stepped = np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS)
    integers: NDArray[np.int8] = stepped.astype(np.int8)
    return integers
