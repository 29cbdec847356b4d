"""How far down a network's channels let its work come, against what is asked.

Said before a search starts, which takes hours and could otherwise only tell at its end that there
was never enough to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgemtl.compress.channels.discovery import Discovery, WholeChannels
from edgemtl.compress.channels.groups import ChannelGroup


@dataclass(frozen=True)
class Reach:
    """What can be cut, and what that allows.

    Attributes:
        whole: channels that cannot be cut, in the order of computation.
        whole_share: share of the network's multiply-accumulates that write them, in 0..1.
        multiple: of which widths are.
        lowest: lowest share of the multiply-accumulates that such widths allow.
        unsnapped: the same where any width is allowed.
        asked: share to come down to; None without such a goal.
    """

    whole: tuple[WholeChannels, ...]
    whole_share: float
    multiple: int
    lowest: float
    unsnapped: float
    asked: float | None = None

    @property
    def short(self) -> bool:
        """Whether the goal lies below what can be reached."""
        return self.asked is not None and self.lowest > self.asked

    def sentences(self) -> list[str]:
        """For the log, the decision and the report."""
        lines = []
        if self.whole:
            modules = len({item.module for item in self.whole})
            lines.append(
                f"channels of {modules} module{'s' * (modules != 1)} cannot be cut; "
                f"{self.whole_share:.1%} of the multiply-accumulates write them"
            )
        lowest = (
            f"with every group at its narrowest (multiples of {self.multiple} channels) "
            f"{self.lowest:.1%} of the multiply-accumulates are left"
        )
        if self.asked is None:
            return [*lines, lowest]
        if not self.short:
            return [*lines, f"{lowest}; {self.asked:.1%} is the goal"]
        wider = f"; {self.unsnapped:.1%} if any width is allowed" if self.multiple > 1 else ""
        return [*lines, f"{lowest}, and the goal of {self.asked:.1%} cannot be reached{wider}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "whole": [asdict(item) for item in self.whole],
            "whole_macs_share": self.whole_share,
            "channel_multiple": self.multiple,
            "lowest_macs_share": self.lowest,
            "lowest_macs_share_any_width": self.unsnapped,
            "asked_macs_share": self.asked,
            "summary": self.sentences(),
        }


def reach_of(
    discovery: Discovery,
    multiple: int,
    asked: float | None = None,
    groups: Sequence[ChannelGroup] | None = None,
) -> Reach:
    """What a network's channels allow.

    Args:
        discovery: of the network.
        multiple: of which widths are to be.
        asked: share of the multiply-accumulates to come down to.
        groups: those that may be cut, where some are left whole as asked; all by default.
    """
    free = discovery if groups is None else replace(discovery, groups=tuple(groups))
    return Reach(
        discovery.whole,
        discovery.whole_share,
        multiple,
        free.lowest_share(multiple),
        free.lowest_share(1),
        asked,
    )
