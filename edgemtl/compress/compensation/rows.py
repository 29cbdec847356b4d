"""What a layer's weight was multiplied with, as rows of features, at some places of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """How a convolution looks at its input; one number per spatial axis.

    Attributes:
        kernel, stride, padding, dilation: as of torch.
        transposed: whether it spreads its input instead.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool


def convolution_rows(x: Tensor, window: Window, size: Sequence[int], places: Tensor) -> Tensor:
    """Features at some places of a convolution's output.

    A transposed convolution is an ordinary one over its input with zeros between the pixels: where
    a tap falls on such a zero, the feature is 0.

    Args:
        x: (B, C, ...) input.
        window: of the convolution.
        size: spatial size of the output.
        places: (n,) flat indices into the output's spatial axes.

    Returns:
        (B, n, C, taps).
    """
    batch, channels, *spatial = x.shape
    flat = torch.zeros((len(places), prod(window.kernel)), dtype=torch.int64)
    inside = torch.ones_like(flat, dtype=torch.bool)
    left, rest = places, prod(window.kernel)
    taps = torch.arange(rest)
    for axis in reversed(range(len(spatial))):
        out, left = left % size[axis], left // size[axis]
        tap, taps = taps % window.kernel[axis], taps // window.kernel[axis]
        shift = tap * window.dilation[axis]
        if window.transposed:
            spread = out[:, None] + window.padding[axis] - shift
            index = torch.div(spread, window.stride[axis], rounding_mode="floor")
            inside &= spread % window.stride[axis] == 0
        else:
            index = out[:, None] * window.stride[axis] - window.padding[axis] + shift
        inside &= (index >= 0) & (index < spatial[axis])
        flat += index.clamp(0, spatial[axis] - 1) * prod(spatial[axis + 1 :])
    found = map_rows(x, flat.reshape(-1)) * inside.reshape(1, -1, 1)
    return found.reshape(batch, len(places), -1, channels).transpose(2, 3)


def map_rows(values: Tensor, places: Tensor) -> Tensor:
    """(B, n, O) values of a (B, O, ...) map at some places, without a copy of the whole map."""
    last = values.movedim(1, -1)
    if last.is_contiguous():  # channels lie together in memory
        return last.reshape(values.shape[0], -1, values.shape[1])[:, places]
    return values.flatten(2)[:, :, places].transpose(1, 2)
