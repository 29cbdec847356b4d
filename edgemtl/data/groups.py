"""What makes pictures of a data set alike, and slices that are held out without their likes.

Nine frames of one person, or neighbouring frames of a video, are nearly one picture: whoever learns
from some and is judged by others is judged by what he has seen. So a held-out slice takes the whole
group of each of its pictures away from what is learned from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused

#: says which pictures of a folder are alike: {"picture.jpg": "group", ...}, beside ``images``
GROUPS_FILE = "groups.json"


@runtime_checkable
class Grouped(Protocol):
    """A data set that knows which of its pictures are alike."""

    def groups(self) -> tuple[Hashable, ...]:
        """One name per picture, in order; pictures of one name are alike."""
        ...


def groups_of(dataset: Dataset) -> tuple[Hashable, ...]:
    """The group of each picture: as the reader declares, else each picture alone."""
    return dataset.groups() if isinstance(dataset, Grouped) else tuple(range(len(dataset)))


def groups_hash(dataset: Dataset) -> str:
    """SHA-256 over which pictures are alike; their names and bytes are in the fingerprint."""
    numbers: dict[Hashable, int] = {}
    found = [numbers.setdefault(group, len(numbers)) for group in groups_of(dataset)]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def read_groups(folder: Path) -> dict[str, str]:
    """Picture name -> group, of a split's :data:`GROUPS_FILE`; empty where there is none.

    Raises:
        InputRefused: it is not an object of names.
    """
    path = folder / GROUPS_FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"the groups cannot be read: {error}", where=str(path)) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise InputRefused(
            "the groups are not names by picture",
            where=str(path),
            hint='expected {"picture.jpg": "person or scene", ...}',
        )
    return found


def hold_out(
    groups: Sequence[Hashable], order: Sequence[int], count: int, spare: int, least: int
) -> list[int]:
    """Pictures to judge by, from groups that nothing else may use.

    As few pictures of one group as leave the others ``spare`` pictures, since a hundred people
    judge better than ten people ten times; whole groups where that cannot be. Where every group is
    one picture, the choice is the first ``count`` of ``order``.

    Args:
        groups: of all pictures.
        order: positions in the order of choice, all or some.
        count: how many are wanted.
        spare: how many pictures of other groups should remain, for taking few of each group.
        least: how many have to remain in any case.

    Returns:
        At most ``count`` positions; fewer where whole groups allow no more.
    """
    members: dict[Hashable, list[int]] = {}
    for position in order:
        members.setdefault(groups[position], []).append(position)
    largest = max(map(len, members.values()), default=1)
    each = 1
    while each < largest:
        found = _take(members, len(order), count, each, spare)
        if len(found) == count:
            return found
        each *= 2
    return _take(members, len(order), count, largest, least)


def _take(
    members: Mapping[Hashable, Sequence[int]], left: int, count: int, each: int, remain: int
) -> list[int]:
    """Up to ``each`` pictures of one group after the other, while ``remain`` others are left."""
    found: list[int] = []
    for images in members.values():
        if len(found) == count:
            break
        if left - len(images) < remain:
            continue
        left -= len(images)
        found += images[: min(each, count - len(found))]
    return found


def outside(groups: Sequence[Hashable], held_out: Sequence[int], order: Sequence[int]) -> list[int]:
    """The positions of ``order`` whose group has no picture among ``held_out``."""
    barred = {groups[position] for position in held_out}
    return [position for position in order if groups[position] not in barred]
