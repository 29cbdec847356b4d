"""Heads of the MOS family: one stream per quantity, cross-stitched, per pyramid level.

A *stream* is named after what it feeds. Six streams exist: the two of detection (``class``,
``box``), ``landmark``, and the three angles. Cross-stitch (Misra et al., CVPR 2016) mixes them
channel by channel: ``out_i = sum_j w_ij * conv_j(x)``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgemtl.models.layers import ConvNormAct
from edgemtl.models.mos.neck import NECK_WIDTH

StitchKind = Literal["cross", "folded", "none"]

#: stream -> values per prior
STREAM_VALUES = {"class": 2, "box": 4, "landmark": 10, "yaw": 66, "pitch": 66, "roll": 66}
ANGLES = ("yaw", "pitch", "roll")
POSE_HIDDEN = 128


class CrossStitch(nn.Module):
    """Six (or fewer) 1x1 convolutions whose results are mixed per channel.

    Args:
        streams: names of the streams.
        own, other: initial weight of a stream on itself and on another (0.9 and 0.1 in MOS;
            1 and 0 make the unit transparent, to start from a network without stitching).
    """

    def __init__(self, streams: Sequence[str], own: float = 0.9, other: float = 0.1) -> None:
        super().__init__()
        self.streams = tuple(streams)
        count = len(self.streams)
        self.convs = nn.ModuleDict({s: nn.Conv2d(NECK_WIDTH, NECK_WIDTH, 1) for s in streams})
        eye = torch.eye(count).unsqueeze(-1)
        self.mix = nn.Parameter((eye * (own - other) + other).repeat(1, 1, NECK_WIDTH))

    def forward(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """(B, 64, H, W) -> stream -> (B, 64, H, W), for the wanted streams."""
        sources = [self.convs[name](x) for name in self.streams]
        mixed = {}
        for name in wanted:
            weights = self.mix[self.streams.index(name)]
            total = sources[0] * weights[0].view(1, -1, 1, 1)
            for source, weight in zip(sources[1:], weights[1:], strict=True):
                total = total + source * weight.view(1, -1, 1, 1)
            mixed[name] = total
        return mixed

    def folded(self, stream: str) -> tuple[Tensor, Tensor]:
        """Weight (64, 64, 1, 1) and bias (64,) of the one 1x1 convolution equal to a stream.

        Exact: a channel-wise weighted sum of 1x1 convolutions is a 1x1 convolution.
        """
        weights, biases = [], []
        for name, mix in zip(self.streams, self.mix[self.streams.index(stream)], strict=True):
            conv = self.convs[name]
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            weights.append(mix.view(-1, 1, 1, 1) * conv.weight)
            biases.append(mix * conv.bias)
        return torch.stack(weights).sum(dim=0), torch.stack(biases).sum(dim=0)


class AngleHead(nn.Module):
    """3x3 to 128 channels, norm, ReLU, 1x1 to 66 bins per prior.

    With ``entry`` a 1x1 convolution precedes: what remains of a folded cross-stitch, which cannot
    be composed into a zero-padded 3x3 exactly at the border.
    """

    def __init__(self, values: int, entry: bool) -> None:
        super().__init__()
        self.entry = nn.Conv2d(NECK_WIDTH, NECK_WIDTH, 1) if entry else nn.Identity()
        self.hidden = ConvNormAct(NECK_WIDTH, POSE_HIDDEN, 3)
        self.out = nn.Conv2d(POSE_HIDDEN, values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, H, W) -> (B, values, H, W)."""
        out: Tensor = self.out(self.hidden(self.entry(x)))
        return out


class LevelHead(nn.Module):
    """All heads of one pyramid level.

    Args:
        streams: names of the streams this network has.
        per_cell: priors per cell.
        stitch: ``cross`` (trainable), ``folded`` (exact inference form) or ``none``.
    """

    def __init__(self, streams: Sequence[str], per_cell: int, stitch: StitchKind) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.stitch = CrossStitch(streams) if stitch == "cross" else None
        self.heads = nn.ModuleDict()
        for name in streams:
            values = STREAM_VALUES[name] * per_cell
            self.heads[name] = (
                AngleHead(values, entry=stitch == "folded")
                if name in ANGLES
                else nn.Conv2d(NECK_WIDTH, values, 1)
            )

    def forward(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """(B, 64, H, W) -> stream -> (B, H * W * per_cell, values of that stream)."""
        inputs = self.stitch(x, wanted) if self.stitch else dict.fromkeys(wanted, x)
        answers = {}
        for name in wanted:
            out = self.heads[name](inputs[name])
            out = out.permute(0, 2, 3, 1)
            answers[name] = out.reshape(out.shape[0], -1, STREAM_VALUES[name])
        return answers

    @torch.no_grad()
    def folded(self) -> LevelHead:
        """An equal head without its cross-stitch, which must be there (MOS, section 8); a copy.

        A linear 1x1 head composes with its folded 1x1 stitch into one convolution; an angle head
        keeps the folded stitch as its entry. Widths are read from the layers, which may be pruned.
        """
        assert self.stitch is not None
        other = copy.deepcopy(self)
        other.stitch = None
        for name in self.streams:
            weight, bias = self.stitch.folded(name)
            head = other.heads[name]
            if isinstance(head, AngleHead):
                head.entry = _pointwise(weight, bias)
            else:
                assert isinstance(head, nn.Conv2d) and head.bias is not None
                outer = head.weight.flatten(1)
                composed = (outer @ weight.flatten(1))[:, :, None, None]
                other.heads[name] = _pointwise(composed, outer @ bias + head.bias)
        return other.train(self.training)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The 1x1 convolution with this weight (O, I, 1, 1) and bias (O,)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device, dtype=weight.dtype)
    conv.weight.copy_(weight)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    return conv
