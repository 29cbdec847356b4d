"""The history of runs as one HTML file: a plot per figure and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgemtl import files
from edgemtl.gates.history import Entry
from edgemtl.report.curves import Axis, Point, draw_points
from edgemtl.report.figures import Figure
from edgemtl.report.page import render
from edgemtl.report.trend import Course, by_name, courses
from edgemtl.sinks import shown


@dataclass(frozen=True)
class _Plot:
    figure: str
    direction: str
    first: Figure
    last: Figure
    svg: Markup


@dataclass(frozen=True)
class _Run:
    time: str
    label: str
    machine: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class _Trend:
    id: str
    name: str
    plots: tuple[_Plot, ...]
    rows: tuple[_Run, ...]


def write_trend(path: Path, entries: Sequence[Entry]) -> None:
    """Write the page.

    Raises:
        StageFailed: it cannot be written.
    """
    files.write_text(path, render_trend(entries))


def render_trend(entries: Sequence[Entry]) -> str:
    """The page; the same history gives the same text."""
    trends = [
        _trend(f"trend-{number}", name, runs)
        for number, (name, runs) in enumerate(by_name(entries).items())
    ]
    return render("trend.html", "pass", runs=len(entries), trends=trends)


def _trend(name_id: str, name: str, runs: Sequence[Entry]) -> _Trend:
    found = [course for course in courses(runs) if course.known]
    rows = [
        _Run(
            shown(run.time_utc),
            shown(run.label),
            shown(run.machine),
            tuple(course.text(run.figures.get(course.figure)) for course in found),
        )
        for run in runs
    ]
    plots = tuple(_plot(f"{name_id}-{n}", course) for n, course in enumerate(found))
    return _Trend(name_id, shown(name), plots, tuple(reversed(rows)))


def _plot(name: str, course: Course) -> _Plot:
    points = [Point(n, v) for n, v in enumerate(course.values, 1) if v is not None]
    points[-1] = Point(points[-1].x, points[-1].y, style="after")
    figure = shown(course.figure)
    svg = draw_points(
        points, name, f"{figure} over the runs", Axis("run", ticks=False), Axis(figure, course.unit)
    )
    first, last = course.text(course.known[0]), course.text(course.known[-1])
    return _Plot(figure, course.direction, first, last, svg)
