"""The program in NumPy: exact integers, the definition that the HLS code must equal bit by bit.

Sums of products are computed by float64 matrix products, which are exact here: every product is
below 2^14 and every sum of at most 2^17 of them below 2^31, far from the 2^53 that float64 holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.arith import Integers, requantise
from edgemtl.backends.fpga.program import Program, Step, Tensor, Window

Size = tuple[int, int]
#: bits of a tensor -> what holds it
TYPES = {8: np.int8, 16: np.int16, 32: np.int32}


def run_stage(program: Program, stage: int, memory: dict[str, Integers]) -> None:
    """Run the steps of a stage.

    Args:
        program: of the network.
        stage: which.
        memory: tensor -> (height, width, channels); read and extended.
    """
    for step in program.steps:
        if step.stage == stage:
            run_step(step, program.tensors, memory)


def run_step(step: Step, tensors: Mapping[str, Tensor], memory: dict[str, Integers]) -> None:
    """Run one step; a tensor that several steps write exists from the first on."""
    result = tensors[step.output]
    if step.output not in memory:
        memory[step.output] = np.zeros(result.shape, TYPES[result.bits])
    inputs = [memory[name] for name in step.inputs]
    values = _RUN[step.op](step, inputs, (result.height, result.width))
    last = step.first + step.channels
    memory[step.output][:, :, step.first : last] = values.astype(TYPES[result.bits])


def _finish(step: Step, sums: Integers) -> Integers:
    """Sums to the result's numbers."""
    if not step.multiplier.size:
        return sums
    found = requantise(sums, step.multiplier, step.shift, step.low, step.high)
    return found if step.table is None else step.table[found - step.low]


def patches(image: Integers, window: Window, size: tuple[int, int], empty: int = 0) -> Integers:
    """(out height, out width, taps, channels): what each result reads, ``empty`` beyond the edge.

    Args:
        image: (height, width, channels).
        window: which pixels.
        size: (out height, out width).
        empty: value of pixels that there are not.
    """
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    (top, left), (height, width) = window.pad, size
    # As far as the last result reads; what lies beyond the image is empty.
    below = (height - 1) * sh + (kh - 1) * dh + 1 - top - image.shape[0]
    right = (width - 1) * sw + (kw - 1) * dw + 1 - left - image.shape[1]
    border = ((top, max(below, 0)), (left, max(right, 0)), (0, 0))
    padded = np.pad(image, border, constant_values=empty)
    taps = [
        padded[
            y * dh : y * dh + sh * (height - 1) + 1 : sh,
            x * dw : x * dw + sw * (width - 1) + 1 : sw,
        ]
        for y in range(kh)
        for x in range(kw)
    ]
    return np.stack(taps, axis=2)


def _conv(step: Step, inputs: list[Integers], size: Size) -> Integers:
    assert step.weight is not None and step.bias is not None
    found = patches(inputs[0], step.window, size)
    rows = found.reshape(size[0] * size[1], -1).astype(np.float64)
    columns = step.weight.reshape(step.channels, -1).astype(np.float64)
    sums = np.rint(rows @ columns.T).astype(np.int64) + step.bias
    return _finish(step, sums.reshape(*size, step.channels))


def _depthwise(step: Step, inputs: list[Integers], size: Size) -> Integers:
    assert step.weight is not None and step.bias is not None
    found = patches(inputs[0], step.window, size).astype(np.int32)
    weight = step.weight.reshape(step.channels, -1).T.astype(np.int32)
    return _finish(step, np.einsum("hwtc,tc->hwc", found, weight) + step.bias)


def _add(step: Step, inputs: list[Integers], size: Size) -> Integers:
    sums: NDArray[np.int64] = np.zeros(inputs[0].shape, np.int64)
    for values, multiplier in zip(inputs, step.multiplier, strict=True):
        sums = sums + values.astype(np.int64) * int(multiplier)
    # The multipliers are in already.
    return requantise(sums, 1, int(step.shift[0]), step.low, step.high)


def _upsample(step: Step, inputs: list[Integers], size: Size) -> Integers:
    return inputs[0].repeat(step.factor[0], axis=0).repeat(step.factor[1], axis=1)


def _maxpool(step: Step, inputs: list[Integers], size: Size) -> Integers:
    least = int(np.iinfo(inputs[0].dtype).min)
    found: Integers = patches(inputs[0], step.window, size, least).max(axis=2)
    return found


def _average(step: Step, inputs: list[Integers], size: Size) -> Integers:
    return _finish(step, patches(inputs[0], step.window, size).astype(np.int64).sum(axis=2))


_RUN = {
    "conv": _conv,
    "depthwise": _depthwise,
    "add": _add,
    "upsample": _upsample,
    "maxpool": _maxpool,
    "average": _average,
}
