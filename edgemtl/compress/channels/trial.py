"""Try a cut before anybody builds on it, and learn which numbers in modules have to follow.

The graph says which channels belong together. It does not say which sizes the code of a forward
takes from its tensors and which it has written down: ``reshape(b, n, self.heads, -1)``,
``split(58)``, ``if x.shape[1] > 40``. So every group loses one unit on trial, and then all it may
ever lose, and the answers are compared with those of the masked network, by value. All groups are
tried together; only when that fails are they halved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from edgemtl.compress.channels.groups import Attribute, ChannelGroup
from edgemtl.compress.channels.rehearsal import Rehearsal
from edgemtl.models.base import MultiTaskNetwork

Kind = tuple[str, str]  # class of a module, name of its number
Candidates = Callable[[ChannelGroup], tuple[list[Attribute], list[Attribute]]]
#: None when a cut of these groups is right, else why it is not
Judge = Callable[[Sequence[ChannelGroup]], str | None]
#: sets of numbers tried for one kind of group
_TRIES = 40


@dataclass(frozen=True)
class Tried:
    """What the trial told.

    Attributes:
        groups: those that can be cut, with the numbers that fall with them.
        refused: name of each other -> the group, and why not.
    """

    groups: list[ChannelGroup]
    refused: dict[str, tuple[ChannelGroup, str]]


def filter_prunable(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], candidates: Candidates
) -> Tried:
    """The groups that can be cut, each with the numbers that fall with it.

    Args:
        network: left as it is.
        groups: as the graph has them.
        candidates: group -> numbers that follow for certain, and numbers that may.
    """
    options = {group.name: candidates(group) for group in groups}
    plain = [replace(group, attributes=tuple(options[group.name][0])) for group in groups]
    tried = Tried([], {})
    if not plain:
        return tried
    rehearsal = Rehearsal(network)
    if rehearsal.problem(plain) is None:
        return Tried(plain, {})
    kinds = {path: type(module).__name__ for path, module in network.named_modules()}
    alike: dict[tuple[Kind, ...], list[ChannelGroup]] = {}
    for group in plain:
        numbers = {(kinds[a.module], a.name) for a in options[group.name][1]}
        alike.setdefault(tuple(sorted(numbers)), []).append(group)
    fitting: list[ChannelGroup] = []
    for known, members in alike.items():
        if known:
            perhaps = {group.name: options[group.name][1] for group in members}
            fitting += _numbered(rehearsal, members, perhaps, kinds, known, tried.refused)
        else:
            fitting += settle(members, rehearsal.quick_problem, tried.refused)
    order = {group.name: index for index, group in enumerate(plain)}
    fitting.sort(key=lambda group: order[group.name])
    tried.groups.extend(settle(fitting, rehearsal.problem, tried.refused))
    return tried


def settle(
    groups: Sequence[ChannelGroup],
    problem: Judge,
    refused: dict[str, tuple[ChannelGroup, str]],
) -> list[ChannelGroup]:
    """Those that can be cut together, found by halving; the others go to ``refused``."""
    reason = problem(groups) if groups else None
    if reason is None:
        return list(groups)
    if len(groups) == 1:
        refused[groups[0].name] = groups[0], reason
        return []
    middle = len(groups) // 2
    left = settle(groups[:middle], problem, refused)
    right = settle(groups[middle:], problem, refused)
    if not left or not right or problem([*left, *right]) is None:
        return [*left, *right]
    for group in right:  # each can go, not all of them
        reason = problem([*left, group])
        if reason is None:
            left.append(group)
        else:
            refused[group.name] = group, f"cannot go together with others: {reason}"
    return left


def _numbered(
    rehearsal: Rehearsal,
    groups: Sequence[ChannelGroup],
    perhaps: Mapping[str, Sequence[Attribute]],
    kinds: Mapping[str, str],
    known: Sequence[Kind],
    refused: dict[str, tuple[ChannelGroup, str]],
) -> list[ChannelGroup]:
    """Groups of one kind with the numbers that have to fall with them: the fewest that work."""
    first: str | None = None
    for tries, chosen in enumerate(_subsets(known)):
        if tries == _TRIES:
            break
        trial = [
            replace(
                group,
                attributes=group.attributes
                + tuple(a for a in perhaps[group.name] if (kinds[a.module], a.name) in chosen),
            )
            for group in groups
        ]
        reason = rehearsal.quick_problem(trial)
        if reason is None:
            return trial
        first = first or reason
    if len(groups) == 1:
        refused[groups[0].name] = groups[0], first or ""
        return []
    middle = len(groups) // 2
    parts = (groups[:middle], groups[middle:])
    return [g for p in parts for g in _numbered(rehearsal, p, perhaps, kinds, known, refused)]


def _subsets(kinds: Sequence[Kind]) -> Iterator[frozenset[Kind]]:
    for size in range(min(3, len(kinds)) + 1):
        yield from (frozenset(chosen) for chosen in combinations(kinds, size))
