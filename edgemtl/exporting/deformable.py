"""How the operator ``edgemtl::deform_conv2d`` (models/layers.py) is written in ONNX.

``native``: one DeformConv node (opset 19). ``portable``: the same sum from GridSample (opset 16)
and a 1x1 convolution over all taps, for runtimes without DeformConv. Both follow
Dai et al. (ICCV 2017) and Zhu et al. (CVPR 2019): bilinear samples, zero outside the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from edgemtl.models.layers import DeformableConv2d

Lowering = Literal["native", "portable"]

#: lowest opset that has the operators each lowering writes
LOWEST_OPSET: dict[Lowering, int] = {"native": 19, "portable": 16}
_OPERATOR = "edgemtl::deform_conv2d"


def has_deformable(network: nn.Module) -> bool:
    """Whether any layer is a deformable convolution."""
    return any(isinstance(module, DeformableConv2d) for module in network.modules())


def _sizes(g: Any, index: int) -> list[int]:
    """Static shape of an input of the traced operator."""
    return list(list(g.original_node.inputs())[index].type().sizes())


def _constant(value: Any) -> int:
    """An integer argument of the traced operator."""
    return int(value.node().t("value"))


def _native(g: Any, x: Any, offset: Any, mask: Any, weight: Any, bias: Any, padding: Any) -> Any:
    kernel = _sizes(g, 3)[2:]
    pad = _constant(padding)
    return g.op(
        "DeformConv",
        x,
        weight,
        offset,
        bias,
        mask,
        kernel_shape_i=kernel,
        pads_i=[pad] * 4,
        strides_i=[1, 1],
        dilations_i=[1, 1],
        group_i=1,
        offset_group_i=1,
    )


def _portable(g: Any, x: Any, offset: Any, mask: Any, weight: Any, bias: Any, padding: Any) -> Any:
    """Sample all taps of one kernel position side by side, weigh by the mask, then mix by 1x1."""
    batch, channels, height, width = _sizes(g, 0)
    outputs, _, kernel, _ = _sizes(g, 3)
    taps, pad = kernel * kernel, _constant(padding)

    def constant(values: torch.Tensor) -> Any:
        return g.op("Constant", value_t=values)

    def reshape(value: Any, *shape: int) -> Any:
        return g.op("Reshape", value, constant(torch.tensor(shape, dtype=torch.int64)))

    def grid(axis: int, size: int) -> Any:
        """(batch, taps * height, width, 1) coordinates of GridSample, whose -1 and 1 are edges."""
        # coordinate = (2 * (cell + tap - padding + shift) + 1) / size - 1
        tap = torch.arange(taps).view(1, taps, 1, 1, 1)
        tap = tap // kernel if axis == 0 else tap % kernel
        cells = torch.arange(size).view((1, 1, 1, size, 1) if axis == 0 else (1, 1, 1, 1, size))
        rest = (2.0 * (cells + tap - pad) + 1.0) / size - 1.0
        picked = g.op("Gather", shifts, constant(torch.tensor([axis])), axis_i=2)
        scaled = g.op("Mul", picked, constant(torch.tensor(2.0 / size)))
        return reshape(g.op("Add", scaled, constant(rest.float())), batch, taps * height, width, 1)

    shifts = reshape(offset, batch, taps, 2, height, width)
    coordinates = g.op("Concat", grid(1, width), grid(0, height), axis_i=3)
    sampled = g.op(
        "GridSample",
        x,
        coordinates,
        align_corners_i=0,
        mode_s="bilinear",
        padding_mode_s="zeros",
    )
    weighed = g.op(
        "Mul",
        reshape(sampled, batch, channels, taps, height, width),
        reshape(mask, batch, 1, taps, height, width),
    )
    flat = reshape(weighed, batch, channels * taps, height, width)
    mixed = reshape(weight, outputs, channels * taps, 1, 1)
    return g.op("Conv", flat, mixed, bias, kernel_shape_i=[1, 1])


@contextmanager
def lowered(network: nn.Module, lowering: Lowering, opset: int) -> Iterator[None]:
    """While active, deformable layers of ``network`` are exported by this lowering."""
    layers = [module for module in network.modules() if isinstance(module, DeformableConv2d)]
    before = [layer.lowering for layer in layers]
    symbolic = _native if lowering == "native" else _portable
    torch.onnx.register_custom_op_symbolic(_OPERATOR, symbolic, opset)  # type: ignore[attr-defined]
    try:
        for layer in layers:
            layer.lowering = "native"  # so that the trace sees the operator, not its inside
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_OPERATOR, opset)  # type: ignore[attr-defined]
        for layer, original in zip(layers, before, strict=True):
            layer.lowering = original
