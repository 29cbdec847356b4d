"""Tiles that were measured, one JSON line each, keyed by processor, operator and sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgemtl.backends.tvm.schedule.machine import Tile


class Tuned:
    """Records of one processor.

    Args:
        records: lines as :func:`record` makes them; of several for one operator the fastest counts.
        processor: LLVM's name; records of others are left out.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = (), processor: str = "") -> None:
        self._known: dict[str, tuple[float, Tile]] = {}
        for one in records:
            if one["processor"] != processor:
                continue
            key = key_of(one["kind"], one["sizes"])
            seconds = float(one["seconds"])
            if key not in self._known or seconds < self._known[key][0]:
                self._known[key] = (seconds, Tile(*(int(n) for n in one["tile"])))

    def tile(self, kind: str, sizes: Sequence[int]) -> Tile | None:
        """The fastest tile; None where nothing was measured."""
        found = self._known.get(key_of(kind, sizes))
        return found[1] if found else None


def key_of(kind: str, sizes: Sequence[int]) -> str:
    """What tells one operator from another, whatever follows it."""
    return json.dumps([kind, [int(n) for n in sizes]])


def record(
    processor: str, kind: str, sizes: Sequence[int], tile: Tile, seconds: float
) -> dict[str, Any]:
    """One line of records."""
    return {
        "processor": processor,
        "kind": kind,
        "sizes": list(sizes),
        "tile": [tile.rows, tile.columns],
        "seconds": seconds,
    }
