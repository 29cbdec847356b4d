"""Small drawings as inline SVG.

Horizontal positions are percentages and the height is in pixels, so that a drawing fills whatever
width there is and its letters keep their size on a phone. Colours come from the page's style
sheet. Every number that is drawn also stands in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from edgemtl.report.figures import GAP, significant

#: fewest and most bars of a histogram
BINS = (16, 56)
#: height of the bars, and of the lines above them that name the percentiles
BAND, LEGEND = 84, 78
#: pixels from one percentile's name to the next: they stand at different heights, never on another
STEP = 15
AXIS = 24


@dataclass(frozen=True)
class Series:
    """Timings of one network.

    Attributes:
        label: what they are of.
        style: class of the bars.
        samples: timings in milliseconds.
        marks: percentile's name -> its value in milliseconds.
    """

    label: str
    style: str
    samples: Sequence[float]
    marks: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Histogram:
    """Counted timings, on one axis for all series.

    Attributes:
        edges_ms: bounds of the bins, one more than bins.
        counts: per series, its samples per bin; the last bin holds all slower ones too.
        beyond: per series, how many samples are slower than the last bound.
    """

    series: tuple[Series, ...]
    edges_ms: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    beyond: tuple[int, ...]


def count_timings(series: Sequence[Series]) -> Histogram | None:
    """Sort timings into bins; None when there are none.

    The axis ends a little beyond the slowest p99, so that single very slow runs do not squeeze all
    others into one bar.
    """
    drawn = tuple(s for s in series if s.samples)
    if not drawn:
        return None
    low = min(min(s.samples) for s in drawn)
    slowest = max(max(s.samples) for s in drawn)
    marked = max((value for s in drawn for _, value in s.marks), default=slowest)
    high = min(slowest, low + (marked - low) * 1.08)
    if high <= low:
        high = low + max(abs(low) * 0.01, 1e-3)
    # Few samples in many bins are a comb that shows nothing.
    bins = round(2 * math.sqrt(max(len(s.samples) for s in drawn)))
    edges = np.linspace(low, high, min(max(bins, BINS[0]), BINS[1]) + 1)
    counts = [np.histogram(np.clip(s.samples, low, high), edges)[0] for s in drawn]
    beyond = [sum(1 for value in s.samples if value > high) for s in drawn]
    return Histogram(
        drawn,
        tuple(float(v) for v in edges),
        tuple(tuple(int(n) for n in row) for row in counts),
        tuple(beyond),
    )


def draw_histogram(found: Histogram, name: str) -> Markup:
    """One band of bars per series, one above the other, on a common axis.

    ``name`` becomes the front part of element ids and must be unique on the page.
    """
    low, high = found.edges_ms[0], found.edges_ms[-1]
    height = (LEGEND + BAND) * len(found.series) + AXIS
    parts = [
        opening(
            name,
            height,
            "Latency histogram",
            "; ".join(
                f"{s.label}: {', '.join(f'{m} {significant(v)} ms' for m, v in s.marks)}"
                for s in found.series
            ),
        )
    ]
    for index, (series, counts) in enumerate(zip(found.series, found.counts, strict=True)):
        base = (LEGEND + BAND) * (index + 1)
        parts.append(_bars(counts, base, series.style))
        parts.append(text(0, base - BAND - LEGEND + 20, series.label, "start", "label"))
        for step, (mark, value) in enumerate(series.marks):
            at = 100 * (value - low) / (high - low)
            top = base - BAND - STEP * (len(series.marks) - step) + 6
            words = f"{mark} {significant(value)}{GAP}ms"
            parts.append(line(at, top - 9, at, base, "mark"))
            parts.append(text(at, top, words, "end" if at > 60 else "start", "mark"))
        parts.append(line(0, base, 100, base, "axis"))
    for tick in nice_ticks(low, high):
        at = 100 * (tick - low) / (high - low)
        anchor = "start" if at < 4 else "end" if at > 92 else "middle"
        parts.append(line(at, height - AXIS, at, height - AXIS + 4, "axis"))
        parts.append(text(at, height - 6, f"{tick:g}{GAP}ms", anchor, "tick"))
    return Markup("").join([*parts, Markup("</svg>")])


def draw_interval(value: float, low: float, high: float, name: str) -> Markup:
    """A speed-up with its interval on a logarithmic axis, and the line where nothing changes."""
    ends = (min(0.8, low * 0.9), max(1.25, high * 1.1))

    def at(ratio: float) -> float:
        span = math.log(ends[1] / ends[0])
        return 100 * math.log(max(ratio, 1e-9) / ends[0]) / span

    words = [significant(v) for v in (value, low, high)]
    label = f"{words[0]} times as fast, 95 % interval {words[1]} to {words[2]}"
    return Markup("").join(
        [
            opening(name, 74, "Speed-up against the uncompressed network", label),
            line(0, 44, 100, 44, "axis"),
            line(at(1), 24, at(1), 52, "even"),
            text(at(1), 68, "1: equally fast", "start" if at(1) < 50 else "end", "tick"),
            line(at(low), 44, at(high), 44, "interval"),
            line(at(low), 37, at(low), 51, "interval"),
            line(at(high), 37, at(high), 51, "interval"),
            Markup('<circle cx="{:.3f}%" cy="44" r="6" class="point"/>').format(at(value)),
            text(at(value), 24, words[0], "end" if at(value) > 50 else "start", "label"),
            Markup("</svg>"),
        ]
    )


def draw_bar(share: float, before: float | None = None) -> Markup:
    """A bar within a table's row, with a paler one behind it for the state before; 0 to 1."""
    parts = [Markup('<svg class="bar" width="100%" height="14" aria-hidden="true">')]
    for value, style in ((before, "before"), (share, "after")):
        if value is not None:
            height = 14 if style == "before" else (8 if before is not None else 14)
            parts.append(
                Markup('<rect x="0" y="{}" width="{:.2f}%" height="{}" rx="2" class="{}"/>').format(
                    (14 - height) // 2, 100 * min(max(value, 0.0), 1.0), height, style
                )
            )
    return Markup("").join([*parts, Markup("</svg>")])


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers within the range, about as many as wanted."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if raw <= m * power), 10 * power)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def opening(name: str, height: int, title: str, description: str) -> Markup:
    """The opening tag of a drawing that a screen reader can tell about."""
    return Markup(
        '<svg class="chart" width="100%" height="{height}" role="img" '
        'aria-labelledby="{name}-title {name}-desc">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{description}</desc>'
    ).format(name=name, height=height, title=title, description=description)


def _bars(counts: Sequence[int], base: float, style: str) -> Markup:
    most = max([*counts, 1])
    width = 100 / len(counts)
    bars = []
    for index, count in enumerate(counts):
        if count:
            # A single run must stay visible beside hundreds.
            tall = max(BAND * count / most, 1.5)
            bars.append(
                Markup(
                    '<rect x="{:.3f}%" y="{:.1f}" width="{:.3f}%" height="{:.1f}" class="{}"/>'
                ).format(index * width, base - tall, width * 0.88, tall, style)
            )
    return Markup("").join(bars)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A line; x in percent of the width, y in pixels."""
    return Markup('<line x1="{:.3f}%" y1="{:.1f}" x2="{:.3f}%" y2="{:.1f}" class="{}"/>').format(
        x1, y1, x2, y2, style
    )


def text(x: float, y: float, words: str, anchor: str, style: str) -> Markup:
    """Words at a point; x in percent of the width, y in pixels."""
    shift = {"start": 4, "end": -4, "middle": 0}[anchor] if style != "label" or x else 0
    return Markup(
        '<text x="{:.3f}%" y="{:.1f}" dx="{}" text-anchor="{}" class="{}">{}</text>'
    ).format(x, y, shift, anchor, style, words)
