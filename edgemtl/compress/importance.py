"""How large the weights of a channel are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.groups import ChannelGroup
from edgemtl.models.base import MultiTaskNetwork


def l1_importance(
    network: MultiTaskNetwork,
    group: ChannelGroup,
    weights: Mapping[str, Tensor] | None = None,
) -> NDArray[np.float64]:
    """(width,) sum over the layers that write the group of each unit's mean |weight|.

    Args:
        network: whose weights are read.
        group: one of its groups.
        weights: weights to read instead, by name (masked ones, say).
    """
    total = np.zeros(group.width)
    for member in group.with_role("producer"):
        weight = (weights or {}).get(member.tensor, network.get_parameter(member.tensor)).detach()
        if weight.dim() < 2:
            continue
        other = [axis for axis in range(weight.dim()) if axis != member.dim]
        size = weight.abs().mean(dim=other).double().numpy()
        total += size[np.array(member.positions)].reshape(group.width, -1).sum(axis=1)
    return total
