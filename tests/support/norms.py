"""Batch norms that are not the identity, so that a wrong fold shows."""

from __future__ import annotations

from torch import nn


def enliven(norm: nn.BatchNorm2d, spread: float = 0.1) -> None:
    """Draw statistics, scale and shift; means and shifts have this standard deviation."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(0.0, spread)
    norm.running_var.uniform_(0.5, 1.5)
    nn.init.uniform_(norm.weight, 0.7, 1.3)
    nn.init.normal_(norm.bias, 0.0, spread)
