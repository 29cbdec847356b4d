"""What accuracy was paid for less work and less time: every task over MACs and over latency."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from edgemtl.record.rundata import RunData
from edgemtl.report.curves import Axis, Point, draw_points
from edgemtl.report.figures import significant


@dataclass(frozen=True)
class Plot:
    """A drawing with the sentence under it."""

    svg: Markup
    caption: str


def plots(run: RunData) -> list[Plot]:
    """Accuracy over MACs, and over latency, as far as both sides were measured.

    Both axes are shares of the uncompressed network's figure, so that tasks with different figures
    fit on one: it stands at (1, 1), and the chosen point of each task where the run ended.
    """
    kept = _kept(run)
    costs = (run.cost_before, run.cost_after)
    work = [side.figures.get("macs") if side else None for side in costs]
    found = []
    if kept and work[0] and work[1]:
        found.append(_plot(kept, work[1] / work[0], "macs", "multiply-accumulates"))
    if kept and run.comparison and run.comparison.speedup.value > 0:
        ratio = 1 / run.comparison.speedup.value
        found.append(_plot(kept, ratio, "latency", "median latency"))
    return found


def _kept(run: RunData) -> dict[str, float]:
    """Task -> share of its primary figure that was kept; 0.98 is 2 % worse."""
    found: dict[str, float] = {}
    accuracy = run.accuracy
    if accuracy is None or accuracy.reference is None or accuracy.artefact is None:
        return found
    for task, metrics in accuracy.metrics.items():
        sides = [report.tasks.get(task) for report in (accuracy.reference, accuracy.artefact)]
        values = [side.values.get(metrics.primary.key) if side else None for side in sides]
        if values[0] and values[1] is not None:
            found[task] = 1 - metrics.primary.relative_drop(values[0], values[1])
    return found


def _plot(kept: dict[str, float], share: float, key: str, words: str) -> Plot:
    start = Point(1.0, 1.0, "uncompressed", "before")
    ends = [Point(share, value, task, "after") for task, value in kept.items()]
    svg = draw_points(
        [start, *ends],
        f"tradeoff-{key}",
        f"Accuracy kept over {words}",
        Axis(f"{words}, share of uncompressed"),
        Axis("accuracy kept"),
        lines="star",
    )
    told = ", ".join(f"{task} {significant(value, 4)}" for task, value in kept.items())
    return Plot(
        svg,
        f"The chosen point takes {significant(share)} of the {words} and keeps of each task's "
        f"figure: {told} (1 is the uncompressed network; more is better).",
    )
