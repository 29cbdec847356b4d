"""Layers that several families share: convolution + norm + activation, deformable convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
}

ContextKind = Literal["deformable", "plain"]


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation; "same" padding for odd kernels.

    Args:
        inputs, outputs: channels.
        kernel, stride, groups: of the convolution.
        activation: key of :data:`ACTIVATIONS`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


def deform_conv2d_portable(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, padding: int
) -> Tensor:
    """Modulated deformable convolution (DCNv2) from ordinary operators; stride 1, one group.

    Args:
        x: (B, I, H, W).
        offset: (B, 2 K K, H, W), per tap k = row * K + column the pair (dy, dx) in pixels.
        mask: (B, K K, H, W) in 0..1.
        weight: (O, I, K, K).
        bias: (O,).
        padding: zero padding; ``K // 2`` keeps the size.

    Returns:
        (B, O, H, W). Samples outside the picture are zero; bilinear in between. Same convention as
        ONNX DeformConv.
    """
    batch, channels, height, width = x.shape
    kernel = weight.shape[2]
    taps = kernel * kernel
    rows = torch.arange(height, dtype=x.dtype, device=x.device).view(1, 1, height, 1)
    columns = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, 1, width)
    tap = torch.arange(taps, dtype=x.dtype, device=x.device).view(1, taps, 1, 1)
    tap_row = torch.div(tap, kernel, rounding_mode="floor")
    shifts = offset.view(batch, taps, 2, height, width)
    y = rows + tap_row - padding + shifts[:, :, 0]
    z = columns + (tap - tap_row * kernel) - padding + shifts[:, :, 1]
    # grid_sample wants the picture's outer edges at -1 and 1. (Its other convention, with pixel
    # centres there, cannot express a shift in a map of one column.)
    grid = torch.stack([(2 * z + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(
        x,
        grid.reshape(batch, taps * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    sampled = sampled.view(batch, channels, taps, height, width) * mask.unsqueeze(1)
    flat = sampled.reshape(batch, channels * taps, height, width)
    return F.conv2d(flat, weight.reshape(weight.shape[0], channels * taps, 1, 1), bias)


class DeformableConv2d(nn.Module):
    """DCNv2: an ordinary convolution predicts where and how strongly each tap samples.

    Args:
        inputs, outputs: channels.
        kernel: odd kernel size.

    ``offset_mask`` starts at zero, which makes the layer an ordinary convolution at half strength;
    its width is tied to the kernel and is never pruned.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.offset_mask = nn.Conv2d(inputs, 3 * kernel * kernel, kernel, 1, kernel // 2)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)  # type: ignore[arg-type]
        #: "native" calls the operator edgemtl::deform_conv2d, which the exporter writes as one
        #: DeformConv node; "portable" the decomposition, which trains and runs anywhere
        self.lowering: Literal["portable", "native"] = "portable"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        predicted = self.offset_mask(x)
        taps = self.kernel * self.kernel
        offset, mask = predicted[:, : 2 * taps], predicted[:, 2 * taps :].sigmoid()
        if self.lowering == "native":
            out: Tensor = torch.ops.edgemtl.deform_conv2d(
                x, offset, mask, self.weight, self.bias, self.kernel // 2
            )
            return out
        return deform_conv2d_portable(x, offset, mask, self.weight, self.bias, self.kernel // 2)


@torch.library.custom_op("edgemtl::deform_conv2d", mutates_args=())
def _deform_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, padding: int
) -> Tensor:
    return deform_conv2d_portable(x, offset, mask, weight, bias, padding)


@_deform_conv2d.register_fake
def _deform_conv2d_shape(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, padding: int
) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))


class ContextConv(nn.Module):
    """3x3 convolution, deformable or plain, with norm and activation."""

    def __init__(
        self, inputs: int, outputs: int, kind: ContextKind, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.conv: nn.Module = (
            DeformableConv2d(inputs, outputs)
            if kind == "deformable"
            else nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out
