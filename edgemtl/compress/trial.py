"""Try a cut on shapes alone, to learn which numbers in a network's modules have to follow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import torch

from edgemtl.compress.cut import build_record
from edgemtl.compress.groups import Attribute, ChannelGroup
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import apply_record, output_shapes

Kind = tuple[str, str]  # class of a module, name of its attribute
Candidates = Callable[[ChannelGroup], tuple[list[Attribute], list[Attribute]]]


def with_attributes(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], candidates: Candidates
) -> list[ChannelGroup]:
    """The groups that can be cut, each with the numbers that fall with it.

    Args:
        network: left as it is.
        groups: as the graph has them.
        candidates: group -> numbers that follow for certain, and numbers that may.
    """
    wanted = output_shapes(network)

    def works(trial: Sequence[ChannelGroup]) -> bool:
        copied = copy.deepcopy(network)
        keep = {group.name: torch.arange(group.width) > 0 for group in trial}
        try:
            apply_record(copied, build_record(copied, trial, keep))
            return output_shapes(copied) == wanted
        except Exception:  # whatever a forward raises when a shape does not fit
            return False

    kinds = {path: type(module).__name__ for path, module in network.named_modules()}
    options = {group.name: candidates(group) for group in groups}
    plain = [replace(group, attributes=tuple(options[group.name][0])) for group in groups]
    if works(plain):
        return plain
    usable: list[ChannelGroup] = []
    recent: list[frozenset[Kind]] = [frozenset()]
    for group in plain:
        perhaps = options[group.name][1]
        known = sorted({(kinds[a.module], a.name) for a in perhaps})
        subsets = [frozenset(c) for n in range(1, 3) for c in combinations(known, n)]
        for chosen in [*recent, *(s for s in subsets if s not in recent)]:
            extra = tuple(a for a in perhaps if (kinds[a.module], a.name) in chosen)
            trial = replace(group, attributes=group.attributes + extra)
            if works([trial]):
                usable.append(trial)
                recent = [chosen, *(r for r in recent if r != chosen)]
                break
    return usable
