"""The trend: one line of JSON per run, appended, in a file that may be committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl import files
from edgemtl.errors import InputRefused
from edgemtl.gates.snapshot import Snapshot
from edgemtl.measure.statistics import summarise


@dataclass(frozen=True)
class Entry:
    """One run in the trend.

    Attributes:
        time_utc: when it was run.
        label: commit, version or what else names it; may be empty.
        name: of the network and its target; a trend is drawn per name.
        figures: ``tasks.<task>.<figure>``, ``cost.<figure>``, ``latency.<p50_ms|p99_ms>``.
        directions: figure -> which way is better.
        units: figure -> unit.
        machine: that latency was measured on; empty when it was not.
    """

    time_utc: str
    label: str
    name: str
    figures: Mapping[str, float]
    directions: Mapping[str, str]
    units: Mapping[str, str]
    machine: str = ""


def entry_of(snapshot: Snapshot, label: str, time_utc: str) -> Entry:
    """What the trend keeps of a run: primary figures, cost, median and 99th percentile."""
    figures: dict[str, float] = {}
    directions: dict[str, str] = {}
    units: dict[str, str] = {}
    for task, rows in snapshot.tasks.items():
        for key, row in rows.items():
            if row.primary and row.value is not None:
                name = f"tasks.{task}.{key}"
                figures[name], directions[name], units[name] = row.value, row.direction, row.unit
    for key, value in snapshot.cost.items():
        name = f"cost.{key}"
        figures[name], directions[name] = value, "lower"
        units[name] = "B" if key == "size_bytes" else ""
    if snapshot.latency is not None and snapshot.latency.stable:
        summary = summarise(snapshot.latency.samples_ms)
        for key in ("p50_ms", "p99_ms"):
            name = f"latency.{key}"
            figures[name], directions[name], units[name] = getattr(summary, key), "lower", "ms"
    machine = snapshot.latency.machine if snapshot.latency else ""
    return Entry(time_utc, label, snapshot.name, figures, directions, units, machine)


def append(path: Path, entry: Entry) -> None:
    """Add one line; the file is written whole or stays as it was.

    Raises:
        InputRefused: the file holds something that is no history.
        StageFailed: it cannot be written.
    """
    entries = read(path) if path.exists() else ()
    lines = [json.dumps(asdict(e), allow_nan=False) for e in (*entries, entry)]
    files.write_text(path, "\n".join(lines) + "\n")


def read(path: Path) -> tuple[Entry, ...]:
    """All lines, in order.

    Raises:
        InputRefused: missing, or a line that is no entry; the message names it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputRefused(
            "there is no such history", where=str(path), hint="--add RUN begins one"
        ) from error
    except (OSError, ValueError) as error:
        raise InputRefused(f"not readable: {error}", where=str(path)) from error
    return tuple(_entry(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip())


def _entry(line: str, where: str) -> Entry:
    def numbers(data: Mapping[str, Any]) -> dict[str, float]:
        return {str(key): float(value) for key, value in data.items()}

    def words(data: Mapping[str, Any]) -> dict[str, str]:
        return {str(key): str(value) for key, value in data.items()}

    try:
        data = json.loads(line, parse_constant=_refuse)
        return Entry(
            str(data["time_utc"]),
            str(data["label"]),
            str(data["name"]),
            numbers(data["figures"]),
            words(data["directions"]),
            words(data["units"]),
            str(data["machine"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputRefused(
            f"this line is not an entry of a history: {error!r}", where=where
        ) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a figure")
