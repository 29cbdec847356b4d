"""What there is to cut in a network, what there is not, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths


@dataclass(frozen=True)
class WholeChannels:
    """Channels that a weight writes and that cannot be cut.

    Attributes:
        module: path of the module that holds the weight.
        tensor: name of the weight.
        dim: the dimension they lie along.
        channels: how many of them.
        reason: why they stay, one sentence without a capital or a full stop.
        macs_share: share of the network's multiply-accumulates that write them, in 0..1.
    """

    module: str
    tensor: str
    dim: int
    channels: int
    reason: str
    macs_share: float


@dataclass(frozen=True)
class Work:
    """What one weight costs.

    Attributes:
        tensor: its name; "" for what reads no weight.
        shape: its shape.
        macs: multiply-accumulates for one picture.
    """

    tensor: str
    shape: tuple[int, ...]
    macs: float


@dataclass(frozen=True)
class Discovery:
    """Channels of a network.

    Attributes:
        groups: those that can be cut, in the order of computation.
        whole: those that cannot, in the order of computation.
        work: what each weight costs.
    """

    groups: tuple[ChannelGroup, ...]
    whole: tuple[WholeChannels, ...]
    work: tuple[Work, ...]

    @property
    def products(self) -> dict[str, float]:
        """Weight -> multiply-accumulates of products that read none and go with its channels."""
        return {one.tensor: one.macs for one in self.work if len(one.shape) == 1}

    @property
    def whole_share(self) -> float:
        """Share of the network's multiply-accumulates in channels that cannot be cut."""
        largest: dict[str, float] = {}
        for item in self.whole:
            largest[item.tensor] = max(item.macs_share, largest.get(item.tensor, 0.0))
        return sum(largest.values())

    def lowest_share(self, multiple: int) -> float:
        """Lowest share of multiply-accumulates to come down to, every group at its narrowest.

        Args:
            multiple: channels a target computes at once; see :func:`snapped_widths`.
        """
        removed = {g.name: g.width - snapped_widths(g, multiple)[0] for g in self.groups}
        total = sum(one.macs for one in self.work)
        return self.macs(removed) / total if total else 1.0

    def macs(self, removed: Mapping[str, int]) -> float:
        """Multiply-accumulates for one picture when so many units of each group are gone."""
        lost = _lost(self.groups, removed)
        found = 0.0
        for one in self.work:
            share = 1.0
            for dim, size in enumerate(one.shape):
                share *= 1 - lost.get((one.tensor, dim), 0) / size
            found += one.macs * share
        return found


def _lost(groups: Sequence[ChannelGroup], removed: Mapping[str, int]) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for group in groups:
        for member in group.members:
            key = member.tensor, member.dim
            found[key] = found.get(key, 0) + member.per_unit * removed.get(group.name, 0)
    return found
