"""Decoders from tokens to maps, and the distillation between tasks that only training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.m3vit.vit import EPSILON, PATCH

#: convolutions before the classifier; all but the last are followed by an enlargement
STAGES = 4


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ConvStage(nn.Module):
    """3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(x)))


class Decoder(nn.Module):
    """Progressive upsampling ("PUP"): four times a convolution, four times twice the size.

    Args:
        dim: width of a token.
        width: channels inside.
        channels: of the output.
        grid: rows and columns of patches.
    """

    def __init__(self, dim: int, width: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.stages = nn.ModuleList(
            ConvStage(dim if index == 0 else width, width) for index in range(STAGES)
        )
        self.classifier = nn.Conv2d(width, channels, 1)

    def forward(self, tokens: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """(B, 1 + N, dim), class token first -> (B, channels, H, W) of the full input size.

        Args:
            tokens: of the last block.
            features: where given, the enlarged maps after the first three convolutions are
                appended: strides 8, 4 and 2.
        """
        x = self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index < STAGES - 1:
                x = _doubled(x)
                if features is not None:
                    features.append(x)
        return _doubled(self.classifier(x))


class TaskAttention(nn.Module):
    """Distillation of one level of decoder features between all tasks ("TAM"; section 2).

    The features of all tasks are squeezed to one mask that balances a first group of tasks against
    the rest; from the balanced mixture an encoder-decoder makes a second mask that lifts the
    features of every task, from which each task is predicted once more. Where a network has T
    tasks the first group is the first T // 2 (with two tasks: one against one, as published for
    NYUD; the published split of five tasks is not known to us).

    Args:
        channels: task name -> channels of its output, in task order; at least two tasks.
        width: channels of the features.
    """

    def __init__(self, channels: Mapping[str, int], width: int) -> None:
        super().__init__()
        tasks = len(channels)
        if tasks < 2:
            raise ValueError("distillation between tasks needs two tasks or more")
        self.first = tasks // 2
        self.squeeze = ConvStage(tasks * width, width)
        self.balance_conv = nn.Conv2d(width, width, 3, padding=1)
        self.balance_norm = nn.BatchNorm2d(width)
        self.mix = ConvStage(tasks * width, width)
        self.down = nn.ModuleList(ConvStage(width, width, stride=2) for _ in range(2))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1) for _ in range(2)
        )
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.stages = nn.ModuleDict({name: ConvStage(tasks * width, width) for name in channels})
        self.classifiers = nn.ModuleDict(
            {name: nn.Conv2d(width, count, 1) for name, count in channels.items()}
        )

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Per task (B, width, h, w), h and w multiples of 4 -> per task (B, C, *size)."""
        mask = self.balance_norm(self.balance_conv(self.squeeze(torch.cat(list(features), 1))))
        mask = mask.sigmoid()
        rest = len(features) - self.first
        shares = [mask / self.first] * self.first + [(1 - mask) / rest] * rest
        balanced = [share * x for share, x in zip(shares, features, strict=True)]
        x = self.mix(torch.cat(balanced, 1))
        for down in self.down:
            x = down(x)
        x = F.relu(self.up_norms[0](self.up[0](x)))
        lift = 1 + self.up_norms[1](self.up[1](x)).sigmoid()
        lifted = torch.cat([x * lift for x in features], 1)
        return {
            name: F.interpolate(
                self.classifiers[name](stage(lifted)),
                size=size,
                mode="bilinear",
                align_corners=False,
            )
            for name, stage in self.stages.items()
        }


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches of an input of this height and width.

    Raises:
        ValueError: the size is no multiple of the patch.
    """
    if size[0] % PATCH or size[1] % PATCH or min(size) < PATCH:
        raise ValueError(f"height and width have to be multiples of {PATCH}, not {size}")
    return size[0] // PATCH, size[1] // PATCH
