"""Which groups the user wants left whole, by patterns of module paths.

A module that is to stay whole keeps every dimension of its weights, so a group stays that any of
its members lies in: what it reads as well as what it writes. A module among the only ones to be cut
loses channels that it writes, so a group is cut where all modules that write it are among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from edgemtl.compress.channels.groups import ChannelGroup, Member
from edgemtl.errors import UsageError

#: names that a message about an unknown pattern offers
OFFERED = 3


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern names this module, or one that it lies in."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def check_patterns(network: nn.Module, patterns: Iterable[str], where: str) -> None:
    """Refuse a pattern that names nothing.

    Args:
        network: whose modules are meant.
        patterns: as ``fnmatch`` takes them: ``decoders.*``, ``backbone.stages.[01]``.
        where: the key or flag they come from.

    Raises:
        UsageError: a pattern matches no module with weights, naming those that are near.
    """
    paths = list(dict.fromkeys(_module_of(name) for name, _ in network.named_parameters()))
    for pattern in patterns:
        if any(matches(path, pattern) for path in paths):
            continue
        parents = {path[:at] for path in paths for at, mark in enumerate(path) if mark == "."}
        near = get_close_matches(pattern.rstrip(".*"), sorted({*paths, *parents}), OFFERED)
        tops = dict.fromkeys(path.split(".")[0] for path in paths)
        raise UsageError(
            f"'{pattern}' matches no module with weights",
            where=where,
            hint=f"near it: {', '.join(near)}" if near else f"its modules: {', '.join(tops)}",
        )


def left_whole(
    groups: Sequence[ChannelGroup], keep_whole: Sequence[str], only: Sequence[str]
) -> dict[str, str]:
    """Groups that are not to be cut, each with the reason as a clause.

    Args:
        groups: of the network.
        keep_whole: patterns of modules that keep their shapes.
        only: patterns of the modules that may lose channels; all of them where it is empty.
    """
    found = {}
    for group in groups:
        reason = _reason(group, keep_whole, only)
        if reason:
            found[group.name] = reason
    return found


def _reason(group: ChannelGroup, keep_whole: Sequence[str], only: Sequence[str]) -> str:
    for pattern in keep_whole:
        for member in group.members:
            if matches(_module_of(member.tensor), pattern):
                return f"keep_whole '{pattern}': {_module_of(member.tensor)} {_does(member)}"
    if not only:
        return ""
    writers = dict.fromkeys(_module_of(member.tensor) for member in group.with_role("producer"))
    others = [path for path in writers if not any(matches(path, pattern) for pattern in only)]
    if not others:
        return ""
    tied = len(others) < len(writers)
    return f"not among only: {others[0]} writes {'the same channels' if tied else 'it'}"


def _does(member: Member) -> str:
    verbs = {"producer": "writes it", "consumer": "reads it", "follower": "goes with it"}
    return verbs[member.role]


def _module_of(tensor: str) -> str:
    return tensor.rpartition(".")[0]
