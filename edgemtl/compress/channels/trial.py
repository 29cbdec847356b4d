"""Try a cut before anybody builds on it, and learn which numbers in modules have to follow.

The graph says which channels belong together. It does not say which sizes the code of a forward
takes from its tensors and which it has written down: ``reshape(b, n, self.heads, -1)``,
``split(58)``. So every group loses one unit on trial.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import torch

from edgemtl.compress.channels.equivalence import differences
from edgemtl.compress.channels.groups import Attribute, ChannelGroup
from edgemtl.compress.channels.record import build_record
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import apply_record, example_images, output_shapes, sketch

Kind = tuple[str, str]  # class of a module, name of its attribute
Candidates = Callable[[ChannelGroup], tuple[list[Attribute], list[Attribute]]]
#: difference between masked and cut, relative to an output's range, that means a wrong cut; far
#: above rounding, far below what a misplaced channel does
_WRONG = 1e-3


def filter_prunable(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], candidates: Candidates
) -> list[ChannelGroup]:
    """The groups that can be cut, each with the numbers that fall with it.

    Args:
        network: left as it is.
        groups: as the graph has them.
        candidates: group -> numbers that follow for certain, and numbers that may.
    """
    options = {group.name: candidates(group) for group in groups}
    plain = [replace(group, attributes=tuple(options[group.name][0])) for group in groups]
    if not plain or _right(network, plain):
        return plain
    kinds = {path: type(module).__name__ for path, module in network.named_modules()}
    light = sketch(network)
    shapes = output_shapes(light)
    fitting = [group for group in plain if not options[group.name][1]]
    if not _fits(light, fitting, shapes):
        fitting = [group for group in fitting if _fits(light, [group], shapes)]
    recent: list[frozenset[Kind]] = [frozenset()]
    for group in plain:
        if not options[group.name][1]:
            continue
        perhaps = options[group.name][1]
        known = sorted({(kinds[a.module], a.name) for a in perhaps})
        for chosen in [*recent, *(s for s in _subsets(known) if s not in recent)]:
            extra = tuple(a for a in perhaps if (kinds[a.module], a.name) in chosen)
            trial = replace(group, attributes=group.attributes + extra)
            if _fits(light, [trial], shapes):
                fitting.append(trial)
                recent = [chosen, *(r for r in recent if r != chosen)]
                break
    order = {group.name: index for index, group in enumerate(plain)}
    fitting.sort(key=lambda group: order[group.name])
    if not fitting or _right(network, fitting):
        return fitting
    return [group for group in fitting if _right(network, [group])]


def _subsets(kinds: Sequence[Kind]) -> Iterator[frozenset[Kind]]:
    for size in (1, 2):
        yield from (frozenset(chosen) for chosen in combinations(kinds, size))


def _smaller(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> MultiTaskNetwork:
    copied = copy.deepcopy(network)
    keep = {group.name: torch.arange(group.width) > 0 for group in groups}
    apply_record(copied, build_record(copied, groups, keep))
    return copied


def _fits(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], shapes: dict[str, tuple[int, ...]]
) -> bool:
    """Whether the network still runs, to outputs of the same shapes."""
    try:
        return output_shapes(_smaller(network, groups)) == shapes
    except Exception:  # whatever a forward raises when a size does not fit
        return False


def _right(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> bool:
    """Whether cutting one unit of each equals masking it, by value."""
    keep = {group.name: torch.arange(group.width) > 0 for group in groups}
    images = example_images(network)
    try:
        found = differences(network, keep, _smaller(network, groups), images, groups)
    except Exception:  # as above
        return False
    return all(error <= _WRONG for error in found.values())
