"""Which channels of a network have to go together, read off its graph.

No layer is listed by hand: the labels of tracing.py tell which positions of which weights are one
and the same channel, through residual sums, concatenations, depthwise and grouped convolutions,
channel shuffles, attention heads, cross-stitches. A *unit* is the least that can be removed; a
*group* is the units that live in the same weights, so that any subset of them may stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd
from typing import Literal

from torch import nn

from edgemtl.compress.tracing import Counted, Origin, Trace, trace
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d
from edgemtl.models.surgery import example_images

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
        name: of the attribute.
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


def channel_groups(
    network: MultiTaskNetwork, *, tasks: Sequence[str] | None = None
) -> tuple[ChannelGroup, ...]:
    """The network's prunable groups, in the order of computation.

    Outputs of tasks keep their width, as do all channels that meet an operation whose result
    depends on how many there are, or code that counts them by hand. A group that cannot be cut
    although the graph allows it (a size written as a number into the forward) is left out: every
    group is tried (see trial.py). What is followed is one forward pass in eval mode: layers that
    only training uses do not shrink with what they read.

    Args:
        network: left as it is.
        tasks: leave out groups on which none of these depends; all by default.

    Raises:
        UsageError: a task the network does not have.
    """
    from edgemtl.compress.trial import tried

    wanted = {task.name for task in network.selected(tasks)}
    traced = _traced(network)
    groups = _grouped(traced, network)
    modules = dict(network.named_modules())
    groups = tried(network, groups, lambda group: _candidates(modules, traced, group))
    return tuple(group for group in groups if wanted & set(group.tasks))


def _traced(network: MultiTaskNetwork) -> Trace:
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, DeformableConv2d):
            module.lowering = "portable"  # of operators that the tracer knows

    outputs = {task.name: task.outputs for task in network.tasks}
    return trace(copied, example_images(copied), outputs)


def _grouped(traced: Trace, network: MultiTaskNetwork) -> list[ChannelGroup]:
    """Classes of atoms that lie in the same dimensions of the same weights are units of a group."""
    classes: dict[int, dict[Origin, list[int]]] = {}
    for origin, atoms in traced.starts.items():
        for position, root in enumerate(traced.atoms.roots(atoms).tolist()):
            if root:
                classes.setdefault(root, {}).setdefault(origin, []).append(position)
    alike: dict[tuple[tuple[Origin, int], ...], list[dict[Origin, list[int]]]] = {}
    for places in classes.values():
        if places.keys() & traced.produced.keys() and places.keys() & traced.consumed.keys():
            key = tuple((origin, len(found)) for origin, found in places.items())
            alike.setdefault(key, []).append(places)
    writers = {origin: index for index, origin in enumerate(traced.produced)}
    found: list[tuple[int, list[int], ChannelGroup]] = []
    for key, units in alike.items():
        if len(units) < 2:
            continue
        first = min((o for o, _ in key if o in writers), key=writers.__getitem__)
        units.sort(key=lambda places: places[first])
        members = tuple(
            Member(
                origin[0],
                origin[1],
                _role(traced, origin),
                count,
                tuple(position for places in units for position in places[origin]),
            )
            for origin, count in key
        )
        read = {member.tensor for member in members if member.role == "consumer"}
        tasks = tuple(t.name for t in network.tasks if read & traced.tasks[t.name])
        name = first[0].rpartition(".")[0]
        group = ChannelGroup(name, len(units), members, tasks)
        found.append((writers[first], units[0][first], group))
    found.sort(key=lambda item: item[:2])
    seen: dict[str, int] = {}
    groups = []
    for _, _, group in found:
        if not group.tasks:
            continue
        count = seen[group.name] = seen.get(group.name, -1) + 1
        groups.append(replace(group, name=f"{group.name}#{count}") if count else group)
    return groups


def _role(traced: Trace, origin: Origin) -> Role:
    if origin in traced.consumed:
        return "consumer"
    return "producer" if origin in traced.produced else "follower"


def _candidates(
    modules: Mapping[str, nn.Module], traced: Trace, group: ChannelGroup
) -> tuple[list[Attribute], list[Attribute]]:
    """Numbers that fall with the group for certain, and numbers that may."""
    sure: dict[tuple[str, str], Attribute] = {}
    perhaps: dict[tuple[str, str], Attribute] = {}
    first = group.members[0]
    root = traced.atoms.roots(traced.starts[first.tensor, first.dim])[first.positions[0]]
    for counted in traced.counted:
        per_unit = int((traced.atoms.roots(counted.labels) == root).sum())
        if not per_unit:
            continue
        for name in _names(modules[counted.module], counted):
            attribute = Attribute(counted.module, name, per_unit)
            known = counted.attribute is not None
            (sure if known else perhaps)[counted.module, name] = attribute
    return list(sure.values()), [a for key, a in perhaps.items() if key not in sure]


def _names(module: nn.Module, counted: Counted) -> list[str]:
    size = len(counted.labels)
    if counted.attribute is not None:
        return [counted.attribute] if vars(module).get(counted.attribute) == size else []
    return [name for name, value in vars(module).items() if type(value) is int and value == size]


__all__ = ["Attribute", "ChannelGroup", "Member", "channel_groups", "snapped_widths"]
