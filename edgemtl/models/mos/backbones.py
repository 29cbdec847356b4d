"""Backbones of the MOS family: each returns its maps at strides 8, 16 and 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemtl.models.layers import ConvNormAct


class InvertedResidual(nn.Module):
    """MobileNetV2 block: expand 1x1, depthwise 3x3, project 1x1; skip where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = (
            ConvNormAct(inputs, hidden, activation="relu6") if expansion != 1 else nn.Identity()
        )
        self.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden, activation="relu6")
        self.project = ConvNormAct(hidden, outputs, activation="none")
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.skip else out


class MobileNetV2(nn.Module):
    """MobileNetV2 x1.0 without its last 1x1 convolution (Sandler et al., CVPR 2018, table 2)."""

    widths = (32, 96, 320)
    #: (expansion, channels, repeats, first stride), split where a map leaves
    _LAYOUT: tuple[tuple[tuple[int, int, int, int], ...], ...] = (
        ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)),
        ((6, 64, 4, 2), (6, 96, 3, 1)),
        ((6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 32, 3, 2, activation="relu6")
        channels, stages = 32, []
        for layout in self._LAYOUT:
            blocks: list[nn.Module] = []
            for expansion, outputs, repeats, first_stride in layout:
                for repeat in range(repeats):
                    stride = first_stride if repeat == 0 else 1
                    blocks.append(InvertedResidual(channels, outputs, stride, expansion))
                    channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps of 32, 96, 320 channels at strides 8, 16, 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def shuffle_halves(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels: (B, 2 C, H, W) -> (B, 2 C, H, W)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 unit (Ma et al., ECCV 2018, figure 3 c and d)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.shortcut = (
            nn.Sequential(
                ConvNormAct(inputs, inputs, 3, stride, groups=inputs, activation="none"),
                ConvNormAct(inputs, half),
            )
            if stride > 1
            else nn.Identity()
        )
        self.branch = nn.Sequential(
            ConvNormAct(inputs if stride > 1 else half, half),
            ConvNormAct(half, half, 3, stride, groups=half, activation="none"),
            ConvNormAct(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        if self.stride > 1:
            return shuffle_halves(torch.cat([self.shortcut(x), self.branch(x)], dim=1))
        kept, processed = x.chunk(2, dim=1)
        return shuffle_halves(torch.cat([kept, self.branch(processed)], dim=1))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 x1.0 up to stage 4."""

    widths = (116, 232, 464)
    _REPEATS = (4, 8, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 24, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels, stages = 24, []
        for outputs, repeats in zip(self.widths, self._REPEATS, strict=True):
            units = [ShuffleUnit(channels, outputs, 2)]
            units += [ShuffleUnit(outputs, outputs, 1) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*units))
            channels = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps of 116, 232, 464 channels at strides 8, 16, 32."""
        x = self.pool(self.stem(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class SeparableConv(nn.Module):
    """MobileNetV1 block: depthwise 3x3, then 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            inputs, inputs, 3, stride, groups=inputs, activation=activation
        )
        self.pointwise = ConvNormAct(inputs, outputs, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class MobileNetV1Quarter(nn.Module):
    """MobileNetV1 x0.25 as RetinaFace uses it."""

    widths = (64, 128, 256)
    _STAGES: tuple[tuple[tuple[int, int], ...], ...] = (
        ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
        ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
        ((256, 2), (256, 1)),
    )

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 8, 3, 2, activation=activation)
        channels, stages = 8, []
        for layout in self._STAGES:
            blocks = []
            for outputs, stride in layout:
                blocks.append(SeparableConv(channels, outputs, stride, activation))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps of 64, 128, 256 channels at strides 8, 16, 32."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
