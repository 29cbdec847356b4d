"""Convolution and batch norm as one convolution whose weight may be masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: running mean and variance of a batch norm
Statistics = tuple[Tensor, Tensor]


@dataclass
class FoldedNorm:
    """A convolution followed by a batch norm, run as one convolution.

    Attributes:
        bias: of the convolution, whose weight depends on the masks.
        gamma, beta, mean, var, eps: of the norm, as trained.
        arguments: the convolution's arguments behind weight and bias.
    """

    bias: Tensor | None
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    var: Tensor
    eps: float
    arguments: tuple[Any, ...]

    def raw(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution alone: what the norm's statistics are about."""
        out: Tensor = torch.ops.aten.convolution.default(x, weight, self.bias, *self.arguments)
        return out

    def run(self, x: Tensor, weight: Tensor, statistics: Statistics | None) -> Tensor:
        """Convolution and norm as one convolution, with other statistics when given."""
        mean, var = statistics if statistics is not None else (self.mean, self.var)
        scale = self.gamma * (var + self.eps).rsqrt()
        shift = -mean if self.bias is None else self.bias - mean
        out: Tensor = torch.ops.aten.convolution.default(
            x,
            weight * scale.view(-1, *[1] * (weight.dim() - 1)),
            self.beta + shift * scale,
            *self.arguments,
        )
        return out
