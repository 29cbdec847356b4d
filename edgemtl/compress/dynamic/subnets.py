"""Prototypes as networks of their own: cut for good, batch statistics of their own pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl.compress.batches import Batch, losses_per_image
from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.models.base import MultiTaskNetwork


def subnet(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    calibration: Sequence[Tensor],
) -> MultiTaskNetwork:
    """A prototype cut out of the network, its batch norms calibrated on its own pictures.

    Args:
        network: left as it is.
        keep: group -> mask.
        groups: of the network.
        calibration: (B, 3, H, W) pictures of this prototype.

    Raises:
        ParityFailed: the cut network is not the masked one.
    """
    smaller = cut(network, keep, groups)
    check_cut(network, keep, smaller, calibration[0][:1], groups)
    recalibrate(smaller, calibration)
    return smaller.eval()


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace the running statistics of all batch norms by averages over these pictures.

    Only batch norms are put in training mode, so nothing else changes; each batch counts equally.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.training) for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    try:
        for images in batches:
            network(images)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
        network.eval()


@torch.no_grad()
def losses(network: MultiTaskNetwork, batches: Sequence[Batch]) -> NDArray[np.float64]:
    """(pictures, tasks) loss of every picture; exactly 0 where it has no label."""
    network.eval()
    found = [losses_per_image(network(b.images), b, network.tasks) for b in batches]
    return np.concatenate(found)
