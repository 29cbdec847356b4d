"""Feature pyramid and SSH context modules (MOS, section 1; RetinaFace's layout)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.layers import ContextConv, ContextKind, ConvNormAct

NECK_WIDTH = 64


class FeaturePyramid(nn.Module):
    """Top-down pyramid: 1x1 laterals, nearest upsampling, 3x3 merges on the two finer levels."""

    def __init__(
        self, inputs: Sequence[int], context: ContextKind, lateral: str, merge: str
    ) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            ConvNormAct(width, NECK_WIDTH, activation=lateral) for width in inputs
        )
        self.merge = nn.ModuleList(
            ContextConv(NECK_WIDTH, NECK_WIDTH, context, merge) for _ in inputs[:-1]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Backbone maps, finest first -> as many maps of 64 channels."""
        laterals = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        merged = [laterals[-1]]
        for index in range(len(maps) - 2, -1, -1):
            size = (laterals[index].shape[2], laterals[index].shape[3])
            up = F.interpolate(merged[0], size=size, mode="nearest")
            merged.insert(0, self.merge[index](laterals[index] + up))
        return merged


class ContextModule(nn.Module):
    """SSH: receptive fields of 3, 5 and 7 pixels side by side, 32 + 16 + 16 channels."""

    def __init__(self, context: ContextKind, activation: str) -> None:
        super().__init__()
        half, quarter = NECK_WIDTH // 2, NECK_WIDTH // 4
        self.conv3 = ContextConv(NECK_WIDTH, half, context, "none")
        self.conv5_1 = ContextConv(NECK_WIDTH, quarter, context, activation)
        self.conv5_2 = ContextConv(quarter, quarter, context, "none")
        self.conv7_2 = ContextConv(quarter, quarter, context, activation)
        self.conv7_3 = ContextConv(quarter, quarter, context, "none")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, H, W) -> (B, 64, H, W)."""
        shared = self.conv5_1(x)
        parts = [self.conv3(x), self.conv5_2(shared), self.conv7_3(self.conv7_2(shared))]
        return F.relu(torch.cat(parts, dim=1))
