"""Resampling whose weights follow from the sizes alone, as one small matrix product per axis.

Antialiased interpolation (Pillow's filters: each output is a weighted mean over the inputs that it
covers) has no conversion at opset 17, and runtimes read the attribute of later opsets and ignore
it. Adaptive average pooling is refused where the sizes do not divide. Both are separable and
linear, so ``rows @ x @ columns^T`` with stored weights is exact; the weights are what torch itself
makes of unit vectors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.exporting.portable_sizes import numbers, several, sizes


def interpolated(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """``interpolate`` of (B, C, H, W) with ``antialias``, and by area."""
    factors = _factors(scale_factor)
    targets = None if size is None else several(size, 2)
    if mode == "area" and input.dim() == 4:
        if targets is None:
            assert factors is not None  # torch asks for one of the two
            pairs = zip(sizes(input)[-2:], factors, strict=True)
            targets = numbers(math.floor(n * f) for n, f in pairs)
        height, width = targets
        found = adaptive_average(input, targets)
        divides = found is NotImplemented
        return F.adaptive_avg_pool2d(input, (height, width)) if divides else found
    if align_corners and not antialias and targets is None and input.dim() == 4:
        # torch takes the corners from the whole number of places that come out. ONNX takes them
        # from the size times the scale, so a scale that makes no whole number says something else.
        assert factors is not None
        exact = [n * f for n, f in zip(sizes(input)[-2:], factors, strict=True)]
        whole = numbers(math.floor(n) for n in exact)
        if exact != list(whole):
            return F.interpolate(input, whole, None, mode, align_corners)
    if not antialias:
        return NotImplemented

    def weights(axis: int, length: int) -> Tensor:
        def resized(column: Tensor) -> Tensor:
            return F.interpolate(
                column,
                None if targets is None else (targets[axis], 2),
                None if factors is None else (factors[axis], 1.0),
                mode,
                align_corners,
                recompute_scale_factor,
                antialias,
            )

        return _of_unit_vectors(resized, length)

    return _applied(input, weights)


def adaptive_average(input: Tensor, output_size: Any) -> Any:
    """Adaptive average pooling of (..., H, W) where the sizes do not divide."""
    whole = sizes(input)[-2:]
    listed = list(output_size) if isinstance(output_size, tuple | list) else [output_size] * 2
    out = numbers(whole[k] if n is None else n for k, n in enumerate(listed))
    if all(n % k == 0 for n, k in zip(whole, out, strict=True)):
        return NotImplemented

    def weights(axis: int, length: int) -> Tensor:
        return _of_unit_vectors(
            lambda column: F.adaptive_avg_pool2d(column, (out[axis], 2)), length
        )

    return _applied(input, weights)


def _factors(scale_factor: Any) -> tuple[float, float] | None:
    if scale_factor is None:
        return None
    if isinstance(scale_factor, tuple | list):
        return float(scale_factor[0]), float(scale_factor[1])
    return float(scale_factor), float(scale_factor)


def _of_unit_vectors(resized: Any, length: int) -> Tensor:
    """(out, length) weights of a linear resampling of one axis of this length.

    The vectors are two columns wide: torch 2.13 resizes one column wrongly when it antialiases.
    """
    with torch.no_grad():
        columns = torch.eye(length).reshape(1, length, length, 1).expand(-1, -1, -1, 2)
        made: Tensor = resized(columns)
    return made[0, :, :, 0].t().contiguous()


def _applied(x: Tensor, weights: Any) -> Tensor:
    """Both axes of (..., H, W), the one that saves more work first."""
    height, width = sizes(x)[-2:]
    rows, columns = _untraced(weights, 0, height), _untraced(weights, 1, width)
    if rows.shape[0] * width <= columns.shape[0] * height:
        return torch.matmul(torch.matmul(rows, x), columns.t())
    return torch.matmul(rows, torch.matmul(x, columns.t()))


def _untraced(weights: Any, axis: int, length: int) -> Tensor:
    """Weights as a constant of the graph, not as the operators that make them."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        made: Tensor = weights(axis, length)
        return made
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
