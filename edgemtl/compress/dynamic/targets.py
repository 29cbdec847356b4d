"""The mask a picture should have, read off its own activations (the self-supervised target)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from edgemtl.errors import UsageError

Rule = Literal["paper", "cover"]
#: how far a cumulated share may lie above the threshold and still count as below it
SLACK = 1e-5
#: a channel with a smaller share of the mass is dead on this picture
DEAD = 1e-5


def target_mask(mass: Tensor, threshold: float, rule: Rule = "paper", minimum: int = 1) -> Tensor:
    """The strongest channels that hold a share of the activation mass.

    Channels are sorted by falling mass and cumulated. The paper keeps those whose cumulated share
    does not exceed the threshold, so the one that crosses it goes; ``cover`` keeps that one too,
    so that the threshold is reached. At 1 all channels stay but those that are dead on the
    picture.

    Args:
        mass: (B, width) not negative: largest |activation| over the pixels of each channel.
        threshold: share of the mass, in 0..1.
        rule: ``paper`` or ``cover``.
        minimum: fewest channels that stay (the paper's rule may leave none).

    Returns:
        (B, width) bool. A picture on which every channel is dead keeps the first ``minimum``.

    Raises:
        UsageError: a threshold outside 0..1.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"the mass threshold is {threshold:g}, it lies above 0 and at most at 1")
    order, cumulated = cumulated_mass(mass)
    return mask_at(order, cumulated, threshold, rule, minimum)


def cumulated_mass(mass: Tensor) -> tuple[Tensor, Tensor]:
    """Channels by falling mass and their cumulated shares, (B, width) each.

    Equal channels go in order of their index; where all is dead the shares are 0.
    """
    total = mass.sum(dim=1, keepdim=True)
    share = torch.where(total > 0, mass / total.clamp_min(torch.finfo(mass.dtype).tiny), 0.0)
    ranked, order = share.sort(dim=1, descending=True, stable=True)
    return order, ranked.double().cumsum(dim=1)


def mask_at(order: Tensor, cumulated: Tensor, threshold: float, rule: Rule, minimum: int) -> Tensor:
    """:func:`target_mask` from what :func:`cumulated_mass` returned: one sort, many thresholds."""
    width = order.shape[1]
    before = torch.cat([torch.zeros_like(cumulated[:, :1]), cumulated[:, :-1]], dim=1)
    if threshold >= 1:
        kept = cumulated - before > DEAD
    elif rule == "paper":
        kept = cumulated <= threshold + SLACK
    else:
        kept = before < threshold - SLACK
        kept &= cumulated[:, -1:] > 0
    count = kept.sum(dim=1).clamp(min=min(minimum, width))
    ranked = torch.arange(width, device=order.device)[None] < count[:, None]
    return torch.zeros_like(ranked).scatter(1, order, ranked)
