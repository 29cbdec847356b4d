"""Which widths are measured: cuts of the whole network in which every group takes many widths."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths

#: how far the groups of one cut lie around its level, as a share of their widths
SPREAD = 0.35
#: levels of the cuts, as shares of the work, which goes with the square of the widths
_NARROWEST, _WIDEST = 0.02, 0.95
#: exponent of the shares that are drawn for each group by itself; below 1 favours the wide ones
_FAVOUR = 0.6


def measured_cuts(
    groups: Sequence[ChannelGroup], multiple: int, count: int, seed: int
) -> list[dict[str, int]]:
    """Widths of every group in each cut; the same arguments give the same cuts.

    Layers meet as combinations of widths on both sides, in a network that is about as wide as they
    are: what a layer takes depends on what the layers before it left in the processor's caches.
    Every other cut is therefore drawn around a level of its own; in those between, each group's
    widths are a random order of all that it can have, so that even few cuts reach all of them. Both
    favour wide groups: what is half as wide takes a quarter of the time, and a search asks for
    shares of the time.

    Args:
        groups: of the network.
        multiple: widths are multiples of it.
        count: number of cuts.
        seed: of the draw.
    """
    draw = random.Random(seed)
    order = _spread_out(count)
    spans = {group.name: draw.sample(range(count), count) for group in groups}
    cuts = []
    for number in range(count):
        level = (_NARROWEST + (_WIDEST - _NARROWEST) * (order[number] + 0.5) / count) ** 0.5
        widths = {}
        for group in groups:
            share = level + draw.uniform(-SPREAD, SPREAD)
            if number % 2:
                share = ((spans[group.name][number] + draw.random()) / count) ** _FAVOUR
            allowed = snapped_widths(group, multiple)
            widths[group.name] = min(allowed, key=lambda w: abs(w - share * group.width))
        cuts.append(widths)
    return cuts


def _spread_out(count: int) -> list[int]:
    """0 .. count - 1 such that any first few of them lie far apart: 0, 1/2, 1/4, 3/4 of it, ..."""

    def reversed_bits(number: int) -> float:
        value, step = 0.0, 0.5
        while number:
            number, bit = divmod(number, 2)
            value, step = value + bit * step, step / 2
        return value

    ranked = sorted(range(count), key=reversed_bits)
    found = [0] * count
    for rank, number in enumerate(ranked):
        found[number] = rank
    return found
