"""How far a cut network's answers are from those of the masked one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.exporting.differences import difference
from edgemtl.models.base import MultiTaskNetwork


@torch.no_grad()
def differences(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    cut_network: MultiTaskNetwork,
    images: Tensor,
    groups: Sequence[ChannelGroup],
) -> dict[str, float]:
    """Output name -> largest difference between masked and cut, relative to the output's range.

    The range is that of :func:`edgemtl.exporting.differences.extent`. Infinite where the two cannot
    be compared (shapes that differ, values that are not finite); arguments as in
    :func:`edgemtl.compress.channels.cut.check_cut`.
    """
    masked = MaskedNetwork(network, groups)
    for name, mask in keep.items():
        masked.set_mask(name, mask)
    training = network.training, cut_network.training
    try:
        network.eval()
        expected, answers = masked(images), cut_network.eval()(images)
    finally:
        network.train(training[0])
        cut_network.train(training[1])
    return relative_differences(expected, answers)


def relative_differences(
    expected: Mapping[str, Tensor], answers: Mapping[str, Tensor]
) -> dict[str, float]:
    """Output name -> largest difference, as in :func:`differences`."""
    found = {
        name: difference(value.cpu().numpy(), answers[name].cpu().numpy())
        for name, value in expected.items()
    }
    return {name: math.inf if d.problem else d.max_relative for name, d in found.items()}
