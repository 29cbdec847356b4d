"""The history of runs as text: one line per figure, with a line of blocks that shows its course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemtl.gates.history import Entry
from edgemtl.report.figures import DASH, Figure, nothing, plain
from edgemtl.report.texttables import TextRow, TextTable, aligned, simple
from edgemtl.sinks import shown

_BLOCKS = "▁▂▃▄▅▆▇█"
#: runs that the line of blocks shows, the latest ones
MOST_BLOCKS = 30


@dataclass(frozen=True)
class Course:
    """One figure over all runs of one network.

    Attributes:
        figure: ``tasks.pose.mae_deg``, ...
        values: in order; None where a run has none.
        direction: which way is better.
    """

    figure: str
    values: tuple[float | None, ...]
    direction: str
    unit: str

    @property
    def known(self) -> tuple[float, ...]:
        """The values that there are."""
        return tuple(value for value in self.values if value is not None)

    def text(self, value: float | None) -> Figure:
        """A value with its unit."""
        return nothing(text=DASH) if value is None else plain(value, self.unit)


def by_name(entries: Sequence[Entry]) -> Mapping[str, tuple[Entry, ...]]:
    """Runs of one network and target together, in order."""
    found: dict[str, tuple[Entry, ...]] = {}
    for entry in entries:
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def courses(entries: Sequence[Entry]) -> list[Course]:
    """All figures of these runs."""
    keys = dict.fromkeys(key for entry in entries for key in entry.figures)
    return [
        Course(
            key,
            tuple(entry.figures.get(key) for entry in entries),
            next((e.directions[key] for e in reversed(entries) if key in e.directions), "lower"),
            shown(next((e.units[key] for e in reversed(entries) if key in e.units), "")),
        )
        for key in keys
    ]


def blocks(values: Sequence[float]) -> str:
    """A line of blocks between the least and the greatest value."""
    latest = values[-MOST_BLOCKS:]
    low, high = min(latest), max(latest)
    if low == high:
        return _BLOCKS[3] * len(latest)
    return "".join(_BLOCKS[round(7 * (v - low) / (high - low))] for v in latest)


def trend_text(entries: Sequence[Entry]) -> str:
    """Plain lines for a terminal."""
    lines: list[str] = []
    for name, runs in by_name(entries).items():
        rows = tuple(
            TextRow(
                (
                    course.figure,
                    course.text(course.known[0]).text,
                    course.text(course.known[-1]).text,
                    f"{course.direction} is better",
                    blocks(course.known),
                ),
                "none",
            )
            for course in courses(runs)
            if course.known
        )
        plural = "run" if len(runs) == 1 else "runs"
        lines += [f"{simple(name)}: {len(runs)} {plural}", ""]
        lines += aligned(TextTable(("figure", "first", "last", "", "trend"), rows, (1, 2)))
        lines.append("")
    return "\n".join(lines) if lines else "no runs yet\n"
