"""Groups of channels that have to go together, and the widths that a search may give them.

A *unit* is the least that can be removed; a *group* is the units that live in the same weights, so
that any subset of them may stay. ``discover.py`` finds a network's groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd
from typing import Literal

Role = Literal["producer", "consumer", "follower"]
#: the narrowest a group may become, as a share of its width
FLOOR = 0.125


@dataclass(frozen=True)
class Member:
    """One dimension of one weight (or buffer) that shrinks with the group.

    Attributes:
        tensor: name in the network's ``named_parameters`` or ``named_buffers``.
        dim: the dimension.
        role: ``producer`` writes the channels, ``consumer`` sums over them, ``follower`` belongs
            to them (bias, norm, depthwise kernel).
        per_unit: positions per unit.
        positions: those of unit 0, then of unit 1, ...; ``per_unit`` each.
    """

    tensor: str
    dim: int
    role: Role
    per_unit: int
    positions: tuple[int, ...]

    def of(self, unit: int) -> tuple[int, ...]:
        """Positions of one unit."""
        return self.positions[unit * self.per_unit : (unit + 1) * self.per_unit]


@dataclass(frozen=True)
class Attribute:
    """A number in a module that counts the group's units (``groups`` of a depthwise layer).

    Attributes:
        module: path of the module.
        name: of the attribute, or the way to a number in what it holds (``config.hidden``,
            ``sizes.0``).
        per_unit: by how much it falls per removed unit.
    """

    module: str
    name: str
    per_unit: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which any subset may stay.

    Attributes:
        name: path of the module that first writes them (``#1``, ``#2`` behind it when a module
            writes several groups).
        width: prunable units.
        members: what shrinks.
        tasks: tasks whose outputs depend on it, in the network's order.
        attributes: numbers that fall with the width.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    tasks: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()

    @property
    def channels_per_unit(self) -> int:
        """Channels a unit has in the narrowest of its layers (a head's width, say); mostly 1."""
        return min(member.per_unit for member in self.members)

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """Members of one role, in the order of computation."""
        return tuple(member for member in self.members if member.role == role)


def snapped_widths(group: ChannelGroup, multiple: int) -> list[int]:
    """Widths in units that a search may choose from, rising, the full width included.

    Widths whose channels are a multiple of ``multiple``, no narrower than that and than 12.5 % of
    the group.

    Args:
        group: the group.
        multiple: channels a target computes at once (8, say); 1 allows every width.
    """
    step = multiple // gcd(multiple, group.channels_per_unit)
    lowest = max(step, ceil(FLOOR * group.width))
    widths = [w for w in range(step, group.width, step) if w >= lowest]
    return [*widths, group.width]
