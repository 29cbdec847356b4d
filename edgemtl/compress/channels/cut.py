"""Cut masked channels out for good, and prove that nothing but speed has changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.equivalence import differences
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.record import build_record
from edgemtl.errors import ParityFailed
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import apply_record

#: largest allowed difference between masked and cut, relative to an output's range
TOLERANCE = 1e-5


def cut(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup] | None = None,
) -> MultiTaskNetwork:
    """A physically smaller copy; its ``pruning`` has one record more (none if nothing goes).

    Args:
        network: left as it is; its ``arguments`` stay those of the architecture it was built as.
        keep: group name -> (width,) bool, True where a unit stays; groups not named stay whole.
        groups: of this very network, when they are known already.

    Raises:
        UsageError: a group the network does not have, a mask of the wrong width, or one that keeps
            nothing.
    """
    found = channel_groups(network) if groups is None else groups
    smaller = copy.deepcopy(network)
    record = build_record(network, found, keep)
    if record["groups"]:
        apply_record(smaller, record)
        smaller.pruning.append(record)
    return smaller


def check_cut(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    cut_network: MultiTaskNetwork,
    images: Tensor,
    groups: Sequence[ChannelGroup] | None = None,
) -> dict[str, float]:
    """Prove that cutting did what masking promised.

    Args:
        network: before the cut.
        keep: the masks.
        cut_network: what :func:`cut` made of them.
        images: (B, 3, H, W) to compare on.
        groups: of ``network``, when they are known already.

    Returns:
        output name -> largest difference, relative to the output's range.

    Raises:
        ParityFailed: an output differs by more than 1e-5 of its range, or in its shape.
    """
    found = channel_groups(network) if groups is None else groups
    result = differences(network, keep, cut_network, images, found)
    worst = max(result, key=lambda name: (result[name] != result[name], result[name]))
    if not result[worst] <= TOLERANCE:
        raise ParityFailed(
            f"output '{worst}' of the cut network differs from the masked one by "
            f"{result[worst]:.2g} of its range (allowed {TOLERANCE:g})",
            where="cut",
        )
    return result
