"""Two runs side by side as one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from edgemtl import files
from edgemtl.gates.regression import Change, RegressionReport
from edgemtl.gates.snapshot import Snapshot
from edgemtl.measure.statistics import summarise
from edgemtl.report import charts, comparison
from edgemtl.report.figures import Figure
from edgemtl.report.page import render
from edgemtl.report.verdict import State
from edgemtl.sinks import shown


@dataclass(frozen=True)
class _Row:
    name: str
    before: Figure
    after: Figure
    change: Figure
    word: str
    state: State
    detail: str


def write_comparison(
    path: Path, report: RegressionReport, before: Snapshot, after: Snapshot
) -> None:
    """Write the page.

    Raises:
        StageFailed: it cannot be written.
    """
    files.write_text(path, render_comparison(report, before, after))


def render_comparison(report: RegressionReport, before: Snapshot, after: Snapshot) -> str:
    """The page; the same runs give the same text."""
    state: State = "pass" if report.passed else "not-measured"
    if any(change.status == "fail" for change in report.changes):
        state = "fail"
    return render(
        "compare.html",
        state,
        before=shown(report.before),
        after=shown(report.after),
        verdict=shown(comparison.verdict(report)),
        verdict_state=state,
        rows=[_row(change) for change in report.changes],
        histogram=_histogram(before, after),
        sources=[
            (word, {key: shown(value) for key, value in side.source.items()})
            for word, side in (("Before", before), ("After", after))
        ],
    )


def _row(change: Change) -> _Row:
    word = comparison.WORDS[change.status][0]
    name = shown(comparison.short(change))
    state = comparison.state(change)
    return _Row(name, *comparison.figures(change), word, state, shown(change.detail))


def _histogram(before: Snapshot, after: Snapshot) -> Markup | None:
    series = []
    for word, side in (("before", before), ("after", after)):
        if side.latency is not None:
            summary = summarise(side.latency.samples_ms)
            marks = [(key, getattr(summary, f"{key}_ms")) for key in ("p50", "p99")]
            series.append(charts.Series(word, word, side.latency.samples_ms, marks))
    found = charts.count_timings(series)
    return None if found is None else charts.draw_histogram(found, "timings")
