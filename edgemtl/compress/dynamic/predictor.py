"""The small head that predicts, from what a layer reads, which of its channels will fire."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemtl.compress.dynamic.sites import Site

Pool = Literal["max", "average"]
Scale = Literal["softmax", "rms"]
EPSILON = 1e-6


@dataclass(frozen=True)
class PredictorOptions:
    """How heads are built.

    Attributes:
        pool: over the pixels, ``max`` (the paper) or ``average``.
        scale: of the pooled vector: ``softmax`` over channels (the paper) or divided by its root
            mean square, which keeps more than the largest channel visible.
        rank: of the affine map where it costs more than ``dense_share`` of its layer; 0: always
            full (the paper).
        bias: what the logits start from; 3 starts with nearly every channel on.
    """

    pool: Pool = "max"
    scale: Scale = "softmax"
    rank: int = 0
    bias: float = 3.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class MaskPredictor(nn.Module):
    """Pool, scale, affine: logits of every channel, for every task.

    Args:
        site: what is predicted.
        tasks: rows of the answer; 1 where masks are not per task.
        options: see :class:`PredictorOptions`.
    """

    def __init__(self, site: Site, tasks: int, options: PredictorOptions) -> None:
        super().__init__()
        self.options, self.tasks, self.width = options, tasks, site.width
        low = 0 < options.rank < min(site.inputs, site.width * tasks)
        inner = options.rank if low else site.inputs
        self.narrow = nn.Linear(site.inputs, inner, bias=False) if low else nn.Identity()
        self.affine = nn.Linear(inner, tasks * site.width)
        nn.init.constant_(self.affine.bias, options.bias)
        nn.init.normal_(self.affine.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> logits (B, tasks, width); a channel is on where they are > 0."""
        pooled = x.amax(dim=(2, 3)) if self.options.pool == "max" else x.mean(dim=(2, 3))
        if self.options.scale == "softmax":
            scaled = pooled.softmax(dim=1)
        else:
            scaled = pooled * torch.rsqrt(pooled.square().mean(dim=1, keepdim=True) + EPSILON)
        logits: Tensor = self.affine(self.narrow(scaled))
        return logits.view(len(x), self.tasks, self.width)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one picture, the pooling left out."""
        layers = [layer for layer in (self.narrow, self.affine) if isinstance(layer, nn.Linear)]
        return sum(layer.weight.numel() for layer in layers)
