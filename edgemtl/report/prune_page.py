"""Pruning drawn: widths before and after, and loss over work and latency."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgemtl import files
from edgemtl.record.prune_story import GroupCost, PruneStory, TaskAfterCut, UncutChannels
from edgemtl.report.charts import draw_bar, line, nice_ticks, opening, text
from edgemtl.report.figures import DASH, Figure, nothing, percent, with_unit
from edgemtl.report.page import render
from edgemtl.report.prune_story import sentences

#: pixels of the plot, and above and below it
PLOT, TOP, BOTTOM = 170, 26, 40
#: percent of the width left free, on the right for the curves' names
LEFT, RIGHT = 6.0, 16.0
#: least pixels from one curve's name to the next
STEP = 13.0
#: values that grow by more than this factor are drawn on a logarithmic axis
WIDE = 8.0
#: dash patterns tell curves apart without colours
DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4")

Curves = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Chart:
    """A drawing with the sentence under it."""

    svg: Markup
    caption: str


def charts(story: PruneStory) -> list[Chart]:
    """The curves that the story has points for."""
    found = []
    for name, curves, x, caption in (
        (
            "prune-macs",
            story.losses,
            "multiply-accumulates left",
            "Held-out loss of each task over the dense network's while the first round's search "
            "cut group after group, before any recovery.",
        ),
        (
            "prune-latency",
            story.times,
            "latency left, predicted",
            "The same over the latency that the table predicts. Groups cut together may save less "
            "than the table says of each; what was measured at the end stands above.",
        ),
    ):
        if curves:
            svg = draw_curves(curves, name, caption, x, "loss over dense", shares=True)
            found.append(Chart(svg, caption))
    for number, drops in enumerate(story.recoveries, 1):
        if any(len(points) > 1 for points in drops.values()):
            caption = (
                f"Relative drop of each task on held-out training pictures during the recovery of "
                f"round {number}; below 0 is better than the dense network."
            )
            name = f"prune-recovery-{number}"
            svg = draw_curves(drops, name, caption, "recovery step", "relative drop", shares=False)
            found.append(Chart(svg, caption))
    return found


def draw_curves(
    curves: Curves, name: str, title: str, x_words: str, y_words: str, shares: bool
) -> Markup:
    """Lines in one plane, each named at its end.

    Args:
        curves: name -> (x, y) points, at least one curve with a point.
        name: front part of element ids, unique on the page.
        title: what is drawn.
        x_words, y_words: of the axes.
        shares: x is a share that falls along the curves: it is drawn falling, in percent. Otherwise
            y is a share, drawn in percent.
    """
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    wide = shares and min(ys) > 0 and max(ys) / min(ys) > WIDE

    def scaled(value: float) -> float:
        return math.log10(value) if wide else value

    low_x, high_x = _bounds(xs)
    low_y, high_y = _bounds([scaled(y) for y in ys])

    def left(value: float) -> float:
        at = (value - low_x) / (high_x - low_x)
        return LEFT + (100 - LEFT - RIGHT) * (1 - at if shares else at)

    def top(value: float) -> float:
        return TOP + PLOT * (1 - (scaled(value) - low_y) / (high_y - low_y))

    ends = "; ".join(
        f"{label} ends at {x_words} {points[-1][0]:.3g}, {y_words} {points[-1][1]:.3g}"
        for label, points in curves.items()
        if points
    )
    parts = [opening(name, TOP + PLOT + BOTTOM, title, ends), text(0, 10, y_words, "start", "tick")]
    for tick in _log_ticks(low_y, high_y) if wide else nice_ticks(low_y, high_y, wanted=3):
        at = top(tick)
        words = f"{tick:g}" if shares else with_unit(f"{100 * tick:g}", "%")
        parts += [line(0, at, 100 - RIGHT, at, "axis"), text(0, at - 4, words, "start", "tick")]
    for tick in nice_ticks(low_x, high_x):
        words = with_unit(f"{100 * tick:g}", "%") if shares else f"{tick:g}"
        parts.append(text(left(tick), TOP + PLOT + 18, words, "middle", "tick"))
    parts.append(text(100 - RIGHT, TOP + PLOT + 34, x_words, "end", "tick"))
    for number, points in enumerate(curves.values()):
        dash = DASHES[number % len(DASHES)]
        for one, other in itertools.pairwise(points):
            drawn = line(left(one[0]), top(one[1]), left(other[0]), top(other[1]), "trace")
            dashed = Markup(' stroke-dasharray="{}" class=').format(dash)
            parts.append(Markup(drawn.replace(" class=", dashed)) if dash else drawn)
    named = {label: (left(p[-1][0]), top(p[-1][1])) for label, p in curves.items() if p}
    lowest = -math.inf
    for label, (at, height) in sorted(named.items(), key=lambda item: item[1][1]):
        lowest = max(height + 4, lowest + STEP)
        parts.append(text(max(at, 60.0), lowest, label, "start", "label"))
    return Markup("").join([*parts, Markup("</svg>")])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within a logarithmic range."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


@dataclass(frozen=True)
class _Row:
    name: str
    round: int
    bar: Markup
    before: Figure
    after: Figure
    macs: Figure
    latency: Figure
    rises: tuple[Figure, ...]
    stopped_by: str


def write_prune_page(story: PruneStory, path: Path, name: str) -> None:
    """Write what pruning did to the network ``name`` as one HTML file.

    Raises:
        StageFailed: it cannot be written.
    """
    files.write_text(path, render_prune_page(story, name))


def render_prune_page(story: PruneStory, name: str) -> str:
    """The page; the same story gives the same text."""
    widest = max((group.before for group in story.groups), default=1.0) or 1.0
    return render(
        "pruning.html",
        "pass",
        name=name,
        method=story.method,
        sentences=sentences(story),
        charts=charts(story),
        tasks=story.tasks,
        rounds=len({group.round for group in story.groups}) > 1,
        timed=any(group.latency_ms is not None for group in story.groups),
        rows=[_row(group, story.tasks, widest) for group in story.groups],
        whole=story.whole,
        after_cut=[_after_cut(one) for one in story.after_cut],
        compensated=[
            (one.round, one.weight, Figure(one.explained, percent(one.explained)))
            for one in story.compensated
        ],
        uncut=[_uncut(channels) for channels in story.uncut],
    )


@dataclass(frozen=True)
class _Uncut:
    module: str
    channels: Figure
    macs: Figure
    reason: str


@dataclass(frozen=True)
class _AfterCut:
    name: str
    round: int
    predicted: Figure
    measured: Figure
    drop: Figure


def _after_cut(one: TaskAfterCut) -> _AfterCut:
    def times(value: float | None) -> Figure:
        return nothing(text=DASH) if value is None else Figure(value, f"{value:.3f}")

    return _AfterCut(
        one.name, one.round, times(one.predicted), times(one.measured), _rise(one.drop)
    )


def _uncut(one: UncutChannels) -> _Uncut:
    share = nothing(text=DASH) if one.macs is None else Figure(one.macs, percent(one.macs))
    return _Uncut(one.module, Figure(one.channels, f"{one.channels:,.0f}"), share, one.reason)


def _row(group: GroupCost, tasks: Sequence[str], widest: float) -> _Row:
    return _Row(
        group.name,
        group.round,
        draw_bar(group.after / widest, group.before / widest),
        Figure(group.before, f"{group.before:,.0f}"),
        Figure(group.after, f"{group.after:,.0f}"),
        nothing(text=DASH) if group.macs is None else Figure(group.macs, percent(group.macs)),
        nothing(text=DASH)
        if group.latency_ms is None
        else Figure(group.latency_ms, with_unit(f"{group.latency_ms:.3f}", "ms")),
        tuple(_rise(group.rises.get(task)) for task in tasks),
        group.stopped_by,
    )


def _rise(value: float | None) -> Figure:
    """A rise of a loss; it is no figure of merit, so no word says better or worse."""
    if value is None:
        return nothing(text=DASH)
    sign = "+" if value > 0 else "\u2212" if value < 0 else ""
    return Figure(value, f"{sign}{percent(value)}")
