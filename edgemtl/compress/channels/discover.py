"""Which channels of a network have to go together, read off its graph.

No layer is listed by hand: the labels of tracer.py tell which positions of which weights are one
and the same channel, through residual sums, concatenations, depthwise and grouped convolutions,
channel shuffles, attention heads, cross-stitches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from edgemtl.compress.channels.discovery import Discovery
from edgemtl.compress.channels.groups import Attribute, ChannelGroup, Member, Role
from edgemtl.compress.channels.rehearsal import same_random_numbers, training_problem
from edgemtl.compress.channels.rules import apply_rule
from edgemtl.compress.channels.trace_data import Counted, Origin, Trace
from edgemtl.compress.channels.tracer import trace
from edgemtl.compress.channels.trial import Tried, filter_prunable, settle
from edgemtl.compress.channels.uncuttable import uncuttable, work_of
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.held_numbers import held_numbers
from edgemtl.models.layers import DeformableConv2d
from edgemtl.models.multihead import free_heads
from edgemtl.models.surgery import example_images


def channel_groups(
    network: MultiTaskNetwork, *, tasks: Sequence[str] | None = None
) -> tuple[ChannelGroup, ...]:
    """The network's prunable groups, in the order of computation: :func:`discover` in short.

    Args:
        network: left as it is.
        tasks: leave out groups on which none of these depends; all by default.

    Raises:
        UsageError: a task the network does not have.
    """
    return discover(network, tasks=tasks).groups


def discover(network: MultiTaskNetwork, *, tasks: Sequence[str] | None = None) -> Discovery:
    """The network's prunable groups, and the channels that cannot be cut, with the reason.

    Outputs of tasks keep their width, as do all channels that meet an operation whose result
    depends on how many there are, or code that counts them by hand. A group that cannot be cut
    although the graph allows it (a size written as a number into the forward) stays whole: every
    group is tried (see trial.py). What is followed is a forward pass in eval mode; where the cut
    network could not be trained, what only training computes is followed too.

    Args:
        network: left as it is.
        tasks: leave out channels on which none of these depends; all by default.

    Raises:
        UsageError: a task the network does not have.
    """
    wanted = {task.name for task in network.selected(tasks)}
    with same_random_numbers():
        traced, tried = _looked_at(network, training=False)
        if tried.groups and training_problem(network, tried.groups) is not None:
            traced, tried = _looked_at(network, training=True)
            fitting = settle(
                tried.groups, lambda groups: training_problem(network, groups), tried.refused
            )
            tried = Tried(fitting, tried.refused)
    groups = tuple(group for group in tried.groups if wanted & set(group.tasks))
    whole = uncuttable(network, traced, tried.groups, tried.refused, wanted)
    return Discovery(groups, whole, work_of(network, traced))


def _looked_at(network: MultiTaskNetwork, *, training: bool) -> tuple[Trace, Tried]:
    traced = _traced(network, training)
    modules = dict(network.named_modules())
    return traced, filter_prunable(
        network,
        _grouped(traced, network),
        lambda group: _candidates(modules, traced, group),
    )


def _traced(network: MultiTaskNetwork, training: bool) -> Trace:
    copied = copy.deepcopy(network)
    for module in copied.modules():
        free_heads(module)
        if isinstance(module, DeformableConv2d):
            module.lowering = "portable"  # of operators that the tracer knows

    outputs = {task.name: task.outputs for task in network.tasks}
    return trace(copied, example_images(copied), outputs, apply_rule, training=training)


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
        module = modules[counted.module]
        known = _known(module, counted)
        for name in [known] if known else _names(module, counted):
            attribute = Attribute(counted.module, name, per_unit)
            (sure if known else perhaps)[counted.module, name] = attribute
    return list(sure.values()), [a for key, a in perhaps.items() if key not in sure]


def _known(module: nn.Module, counted: Counted) -> str | None:
    """The number's name where the operator, or the layer, leaves no doubt."""
    name = counted.attribute
    if isinstance(module, nn.MultiheadAttention):
        name = "num_heads"
    held = None if name is None else vars(module).get(name)
    return name if held == len(counted.labels) and type(held) is int else None


def _names(module: nn.Module, counted: Counted) -> list[str]:
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return []  # what these hold beside is set with their weights
    size = len(counted.labels)
    return [name for name, value in held_numbers(module) if value == size]
