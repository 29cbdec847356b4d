"""Batch statistics while a pruned network is trained.

Compensation solved the layers for the statistics that the norms have; the statistics of a few
training pictures are others, and to let them in costs accuracy before the first step gains any.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgemtl.models.base import MultiTaskNetwork

Norm = nn.modules.batchnorm._BatchNorm


def has_statistics(network: nn.Module) -> bool:
    """Whether a norm keeps statistics of batches."""
    return any(isinstance(m, Norm) and m.track_running_stats for m in network.modules())


def let_train(network: nn.Module, frozen: bool) -> None:
    """Training mode, in which batch norms keep their statistics if ``frozen``."""
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, Norm) and module.track_running_stats:
                module.eval()


def reestimated(network: MultiTaskNetwork, images: Iterable[Tensor]) -> MultiTaskNetwork:
    """A copy, in eval mode, whose statistics are the mean of those of these (B, 3, H, W)."""
    found = copy.deepcopy(network).eval()
    for module in found.modules():
        if isinstance(module, Norm) and module.track_running_stats:
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all batches
            module.train()
    with torch.no_grad():
        for batch in images:
            found(batch)
    return found.eval()
