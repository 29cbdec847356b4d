"""Layers that torch's exporter has no conversion for at opset 17, by plain operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.exporting.portable_sizes import numbers, several, sizes


def root_mean_square(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """``rms_norm`` (Zhang and Sennrich 2019, eq. 4): x / sqrt(mean(x^2) + eps), scaled."""
    axes = tuple(range(-len(numbers(normalized_shape)), 0))
    least = torch.finfo(input.dtype).eps if eps is None else eps
    scaled = input * torch.rsqrt(input.square().mean(axes, keepdim=True) + least)
    return scaled if weight is None else scaled * weight


def shuffled(input: Tensor, groups: int) -> Tensor:
    """``channel_shuffle`` of (B, C, ...): from group by group to channel by channel of each."""
    batch, channels, *places = sizes(input)
    parts = input.reshape(batch, groups, channels // groups, *places)
    return parts.transpose(1, 2).reshape(batch, channels, *places)


def spaced(start: Any, end: Any, steps: Any, *, dtype: Any = None, **more: Any) -> Any:
    """``linspace``, (steps,): from ``start`` to ``end``, which the exporter makes float64."""
    wanted = torch.get_default_dtype() if dtype is None else dtype
    if not wanted.is_floating_point or more.get("out") is not None:
        return NotImplemented
    (count,) = numbers((steps,))
    first, last = (torch.as_tensor(value).to(wanted) for value in (start, end))
    places = torch.arange(count, dtype=torch.int64).to(wanted)
    return places * ((last - first) / max(count - 1, 1)) + first


def folded(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """``fold`` of (B, C * kernel, L): overlapping blocks are summed.

    A transposed convolution whose kernels have a single 1 puts each element of a block in its
    place and adds what meets there.
    """
    kernel, spread, margin, step = (
        several(value, 2) for value in (kernel_size, dilation, padding, stride)
    )
    wanted = several(output_size, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(spread, kernel, strict=True)]
    steps = [
        (n + 2 * p - r) // s + 1 for n, p, r, s in zip(wanted, margin, reach, step, strict=True)
    ]
    left = [
        n - ((count - 1) * s - 2 * p + r)
        for n, count, s, p, r in zip(wanted, steps, step, margin, reach, strict=True)
    ]
    batch, rows, _ = sizes(input)
    area = kernel[0] * kernel[1]
    ones = torch.eye(area, dtype=input.dtype).reshape(area, 1, *kernel)
    return F.conv_transpose2d(
        input.reshape(batch, rows, *steps),
        ones.repeat(rows // area, 1, 1, 1),
        stride=step,
        padding=margin,
        output_padding=tuple(left),
        groups=rows // area,
        dilation=spread,
    )
