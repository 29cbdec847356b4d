"""Points in a plane as inline SVG: a trade-off, or a trend over time.

As in :mod:`edgemtl.report.charts`, x is in percent and y in pixels, and every number that is drawn
also stands in a table beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from edgemtl.report.charts import line, nice_ticks, opening, text
from edgemtl.report.figures import significant, with_unit

Lines = Literal["path", "star", "none"]
#: percent of the width that stays free at both sides, so that no point is cut
MARGIN = 4.0
#: pixels above and below the points
TOP, BOTTOM = 26, 40
PLOT = 150


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        x, y: in the units of the axes.
        label: drawn beside it; empty for none.
        style: class: ``before``, ``after`` or ``step``.
    """

    x: float
    y: float
    label: str = ""
    style: str = "step"


@dataclass(frozen=True)
class Axis:
    """What an axis measures; ``ticks`` may be off where positions have no meaning of their own."""

    words: str
    unit: str = ""
    ticks: bool = True


def draw_points(
    points: Sequence[Point], name: str, title: str, x: Axis, y: Axis, lines: Lines = "path"
) -> Markup:
    """A plot of at least one point; ``lines`` lead from each to the next
    ("path"), from the first to all others ("star"), or nowhere.

    ``name`` becomes the front part of element ids and must be unique on the page.
    """
    bounds_x = _bounds([p.x for p in points])
    bounds_y = _bounds([p.y for p in points])
    base = TOP + PLOT

    def left(value: float) -> float:
        low, high = bounds_x
        return MARGIN + (100 - 2 * MARGIN) * (value - low) / (high - low)

    def top(value: float) -> float:
        low, high = bounds_y
        return base - PLOT * (value - low) / (high - low)

    told = "; ".join(
        f"{p.label or 'point'}: {x.words} {significant(p.x)}, {y.words} {significant(p.y)}"
        for p in points
        if p.label or len(points) <= 12
    )
    parts = [opening(name, base + BOTTOM, title, told)]
    for tick in nice_ticks(*bounds_y, wanted=3):
        at = top(tick)
        parts += [line(0, at, 100, at, "axis"), text(0, at - 4, f"{tick:g}", "start", "tick")]
    if x.ticks:
        for tick in nice_ticks(*bounds_x):
            parts.append(text(left(tick), base + 18, f"{tick:g}", "middle", "tick"))
    parts.append(
        text(100, base + 34, with_unit(x.words, f"({x.unit})" if x.unit else ""), "end", "tick")
    )
    parts.append(text(0, 10, with_unit(y.words, f"({y.unit})" if y.unit else ""), "start", "tick"))
    if lines != "none":
        star = ((points[0], other) for other in points[1:])
        for one, other in itertools.pairwise(points) if lines == "path" else star:
            parts.append(line(left(one.x), top(one.y), left(other.x), top(other.y), "trace"))
    for point in points:
        radius = 4 if point.style == "step" else 6
        parts.append(
            Markup('<circle cx="{:.3f}%" cy="{:.1f}" r="{}" class="{}"/>').format(
                left(point.x), top(point.y), radius, f"dot {point.style}"
            )
        )
        if point.label:
            anchor = "end" if left(point.x) > 60 else "start"
            shift = -12 if anchor == "end" else 12
            parts.append(
                Markup(
                    '<text x="{:.3f}%" y="{:.1f}" dx="{}" text-anchor="{}" class="label">{}</text>'
                ).format(left(point.x), top(point.y) - 8, shift // 2, anchor, point.label)
            )
    return Markup("").join([*parts, Markup("</svg>")])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Least and most with some room; never the same."""
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    return low - room, high + room
