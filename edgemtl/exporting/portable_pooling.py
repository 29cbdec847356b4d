"""Pooling and unpooling by plain operators; every form is exact.

Average pooling with a divisor of its own, which torch's exporter drops; max pooling that tells
where its values were, whose second output TVM and TensorRT do not have; unpooling, on which torch's
exporter stops; adaptive max pooling to sizes that do not divide the input's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.exporting.portable_sizes import numbers, several, sizes

#: attribute of a tensor of places that are those of windows side by side
_WINDOW = "edgemtl_windows"


@dataclass(frozen=True)
class _Windows:
    """Windows that were pooled, side by side.

    Attributes:
        kernel: their height and width.
        width: of the picture.
        place: (B, C, h, w) float, row x width + column of the value within its window.
    """

    kernel: tuple[int, ...]
    width: int
    place: Tensor

    def fit(
        self,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        pads: tuple[int, ...],
        out: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> bool:
        """Whether unpooling values of this shape so puts them back into the same windows."""
        same = kernel == stride == self.kernel and not any(pads) and shape == sizes(self.place)
        whole = all(n >= m * k for n, m, k in zip(out, shape[-2:], kernel, strict=True))
        return same and whole and out[-1] == self.width


def _pooled_size(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    """How many windows torch makes of an axis: the last one starts within the input or its left
    padding (``torch.nn.MaxPool2d``)."""
    room = size + 2 * pad - dilation * (kernel - 1) - 1
    count = (math.ceil(room / stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + pad else count


def average(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average pooling over (..., *axes) that divides by ``divisor_override``.

    Zeros are added around the input so that every window is whole; its mean times its size is the
    sum.
    """
    if divisor_override is None:
        return NotImplemented
    axes = 2 if isinstance(kernel_size, int) and input.dim() < 5 else 3
    if not isinstance(kernel_size, int) and len(kernel_size) > 1:
        axes = len(kernel_size)
    kernel = several(kernel_size, axes)
    stride = kernel if stride is None or stride == [] else several(stride, axes)
    pads = several(padding, axes)
    around: list[int] = []
    for size, k, s, p in zip(sizes(input)[-axes:], kernel, stride, pads, strict=True):
        count = _pooled_size(size, k, s, p, 1, ceil_mode)
        around = [p, max((count - 1) * s + k - size - p, 0), *around]
    whole = F.pad(input, around) if any(around) else input
    pool = F.avg_pool2d if axes == 2 else F.avg_pool3d
    return pool(whole, kernel, stride) * (math.prod(kernel) / divisor_override)


def largest_with_places(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max pooling of (..., H, W) and the flat positions that its values had.

    The K values of each window lie side by side, as K strided slices of the input. A value's
    position is its slice's offset from the window's corner; the smallest of those that hold the
    largest value is taken, which is torch's choice among equals, and no target's own.
    """
    kernel = several(kernel_size, 2)
    stride = kernel if stride is None or stride == [] else several(stride, 2)
    pads, steps = several(padding, 2), several(dilation, 2)
    height, width = sizes(input)[-2:]
    out = [
        _pooled_size(n, k, s, p, d, ceil_mode)
        for n, k, s, p, d in zip((height, width), kernel, stride, pads, steps, strict=True)
    ]
    ends = [
        (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(out, stride, kernel, steps, strict=True)
    ]
    after = [max(end - n - p, 0) for end, n, p in zip(ends, (height, width), pads, strict=True)]
    whole = input
    if any(pads) or any(after):
        lowest = torch.finfo(input.dtype).min
        whole = F.pad(input, (pads[1], after[1], pads[0], after[0]), value=lowest)
    slices, offsets = [], []
    for i in range(0, kernel[0] * steps[0], steps[0]):
        for j in range(0, kernel[1] * steps[1], steps[1]):
            rows = slice(i, i + (out[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(j, j + (out[1] - 1) * stride[1] + 1, stride[1])
            slices.append(whole[..., rows, columns])
            offsets.append(float(i * width + j))
    windows = torch.stack(slices, -1)
    largest = windows.amax(-1)
    beyond = float(height * width + max(offsets) + 1)
    place = torch.where(
        windows == largest.unsqueeze(-1), torch.tensor(offsets), torch.tensor(beyond)
    ).amin(-1)
    corners = (torch.arange(out[0]) * stride[0] - pads[0])[:, None] * width
    corners = corners + torch.arange(out[1]) * stride[1] - pads[1]
    places = (place + corners.to(torch.float32)).to(torch.int64)
    if kernel == stride and steps == (1, 1) and not any(pads) and not any(after):
        setattr(places, _WINDOW, _Windows(kernel, width, place))
    return largest, places


def unpooled(
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Values of (B, C, ...) put where they were, zero elsewhere.

    Where the places are those of windows side by side, each value is written into its window, zero
    beside it; else one scatter along a flat axis puts them all.
    """
    shape = sizes(input)
    axes = len(shape) - 2 if not isinstance(kernel_size, tuple | list) else len(kernel_size)
    kernel = several(kernel_size, axes)
    stride = kernel if stride is None or stride == [] else several(stride, axes)
    pads = several(padding, axes)
    lead, size = shape[:-axes], shape[-axes:]
    out = tuple(
        (n - 1) * s - 2 * p + k for n, s, p, k in zip(size, stride, pads, kernel, strict=True)
    )
    if output_size is not None:
        out = numbers(output_size)[-axes:]
    windows: _Windows | None = getattr(indices, _WINDOW, None)
    if windows is not None and windows.fit(kernel, stride, pads, out, shape):
        return _into_windows(input, windows, out)
    flat = torch.zeros(math.prod(lead), math.prod(out), dtype=input.dtype)
    flat = flat.scatter(
        1,
        indices.reshape(math.prod(lead), math.prod(size)),
        input.reshape(math.prod(lead), math.prod(size)),
    )
    return flat.reshape(*lead, *out)


def _into_windows(values: Tensor, windows: _Windows, out: tuple[int, ...]) -> Tensor:
    """(B, C, h, w) values, each at its place in its window of (B, C, *out), zero elsewhere."""
    *lead, height, width = sizes(values)
    zero = torch.zeros((), dtype=values.dtype)
    cells = [
        torch.where(windows.place == float(i * windows.width + j), values, zero)
        for i in range(windows.kernel[0])
        for j in range(windows.kernel[1])
    ]
    whole = torch.stack(cells, -1).reshape(*lead, height, width, *windows.kernel)
    axes = list(range(len(lead)))
    first = len(lead)
    whole = whole.permute(*axes, first, first + 2, first + 1, first + 3)
    high, wide = height * windows.kernel[0], width * windows.kernel[1]
    whole = whole.reshape(*lead, high, wide)
    rest = (out[0] - high, out[1] - wide)
    return F.pad(whole, (0, rest[1], 0, rest[0])) if any(rest) else whole


def adaptive_largest(
    input: Tensor,
    output_size: Any,
    return_indices: bool = False,
) -> Any:
    """Adaptive max pooling of (..., H, W) where the sizes do not divide: a maximum per cell."""
    size = sizes(input)[-2:]
    wanted = numbers(0 if n is None else n for n in _listed(output_size))
    out = [n or whole for n, whole in zip(wanted, size, strict=True)]
    even = all(whole % n == 0 for whole, n in zip(size, out, strict=True))
    if return_indices or even:
        return NotImplemented
    for axis, (whole, count) in zip((-2, -1), zip(size, out, strict=True), strict=True):
        cells = [
            input.narrow(axis, start, stop - start).amax(axis, keepdim=True)
            for start, stop in cells_of(whole, count)
        ]
        input = torch.cat(cells, axis)
    return input


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value, value]


def cells_of(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of each cell of an adaptive pooling over an axis."""
    return [(k * size // count, -(-(k + 1) * size // count)) for k in range(count)]
