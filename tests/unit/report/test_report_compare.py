"""Two runs side by side, and the trend of many: text, Markdown and pages."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from support.htmltree import parse
from support.run_folder import AFTER

from edgemtl.errors import InputRefused
from edgemtl.gates.history import entry_of
from edgemtl.gates.limits import parse_limits
from edgemtl.gates.regression import RegressionReport, compare
from edgemtl.gates.snapshot import Snapshot, TaskFigure
from edgemtl.pipeline.baselines import snapshot_of_run
from edgemtl.report.compare_page import render_comparison
from edgemtl.report.comparison import MARK, comparison_markdown, comparison_text
from edgemtl.report.curves import Axis, Point, draw_points
from edgemtl.report.trend import blocks, trend_text
from edgemtl.report.trend_page import render_trend

HOSTILE = "<script>alert(1)</script>|`x`\x1b[2J"


@pytest.fixture(scope="module")
def run(variant: Any) -> Snapshot:
    return snapshot_of_run(variant("complete"))


@pytest.fixture(scope="module")
def worse(run: Snapshot) -> Snapshot:
    rows = {"mae_deg": replace(run.tasks["pose"]["mae_deg"], value=9.0)}
    tasks = {**run.tasks, "pose": rows, "hands": {"ap": TaskFigure(0.5, "higher", primary=True)}}
    return replace(run, name="the next one", tasks=tasks)


@pytest.fixture(scope="module")
def judged(run: Snapshot, worse: Snapshot) -> RegressionReport:
    return compare(run, worse, parse_limits({}))


def test_a_snapshot_holds_the_figures_of_the_run(run: Snapshot, variant: Any) -> None:
    assert run.name == "mos_m for cpu"
    assert run.tasks["pose"]["mae_deg"].value == AFTER["pose"]["mae_deg"]
    assert run.tasks["pose"]["mae_deg"].primary and not run.tasks["pose"]["yaw"].primary
    assert set(run.cost) == {"macs", "parameters", "size_bytes"}
    assert run.latency is not None and len(run.latency.samples_ms) == 400
    for broken in ("nulls", "broken-files", "no-run-json"):
        with pytest.raises(InputRefused):
            snapshot_of_run(variant(broken))


def test_a_run_that_stopped_early_has_fewer_figures(run: Snapshot, variant: Any) -> None:
    stopped = snapshot_of_run(variant("failed-stage"))
    assert stopped.tasks == {} and stopped.latency is None
    statuses = {c.status for c in compare(run, stopped).changes}
    assert statuses == {"missing"}


def test_text_tells_every_figure_and_the_verdict(judged: RegressionReport) -> None:
    text = comparison_text(judged)
    assert text.isascii()
    (row,) = [line for line in text.splitlines() if line.startswith("tasks.pose.mae_deg")]
    assert "47.5 % worse" in row and "worse than allowed (at most 1 %)" in row
    assert text.rstrip().endswith("Worse than allowed: tasks.pose.mae_deg.")
    assert re.search(r"^tasks\.hands\.ap .* new", text, re.MULTILINE)
    assert re.search(r"^tasks\.pose\.yaw .* missing", text, re.MULTILINE)


def test_markdown_can_be_found_again_and_is_one_table(judged: RegressionReport) -> None:
    lines = comparison_markdown(judged).splitlines()
    assert lines[0] == MARK
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(judged.changes)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_the_page_shows_the_figures(
    judged: RegressionReport, run: Snapshot, worse: Snapshot
) -> None:
    page = parse(render_comparison(judged, run, worse))
    rows = [row for row in page.all("tr") if row.above("tbody")]
    assert len(rows) == len(judged.changes)
    for row, change in zip(rows, judged.changes, strict=True):
        cells = [cell.attributes.get("data-value") for cell in row.all("td")[:3]]
        for shown, value in zip(cells, (change.before, change.after, change.change), strict=True):
            assert (shown is None and value is None) or float(shown or "nan") == value
        assert (row.attributes.get("class") == "fail") == (change.status == "fail")
    assert len([svg for svg in page.all("svg") if svg.attributes["class"] == "chart"]) == 1
    assert page.all("script") == []
    empty = parse(
        render_comparison(compare(Snapshot("a"), Snapshot("b")), Snapshot("a"), Snapshot("b"))
    )
    assert "Neither run has a figure." in empty.text


def test_names_of_strangers_stay_text(run: Snapshot) -> None:
    odd = Snapshot(HOSTILE, {HOSTILE: {HOSTILE: TaskFigure(1.0, "lower", HOSTILE, HOSTILE, True)}})
    report = compare(odd, odd, parse_limits({}))
    page = render_comparison(report, odd, odd)
    trend = render_trend([entry_of(odd, HOSTILE, HOSTILE)])
    for html in (page, trend):
        assert parse(html).all("script") == [] and "\x1b" not in html
    markdown = comparison_markdown(report)
    assert not re.search(r"(?<!\\)<script", markdown) and "\x1b" not in markdown
    assert "\x1b" not in comparison_text(report)
    assert "\x1b" not in trend_text([entry_of(odd, HOSTILE, HOSTILE)])


def test_the_trend_has_a_line_and_a_plot_per_figure(run: Snapshot, worse: Snapshot) -> None:
    entries = [entry_of(s, f"run {n}", f"2026-01-0{n}") for n, s in enumerate((run, run, worse), 1)]
    text = trend_text(entries)
    assert "mos_m for cpu: 2 runs" in text and "the next one: 1 run\n" in text
    page = parse(render_trend(entries))
    figures = len(entries[0].figures) + len(entries[2].figures)
    assert len(page.all("figure")) == figures
    values = [
        float(cell.attributes["data-value"])
        for cell in page.all("td")
        if "data-value" in cell.attributes
    ]
    assert sorted(values) == sorted(v for entry in entries for v in entry.figures.values())
    ids = [e.attributes["id"] for e in page if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert trend_text([]) == "no runs yet\n"
    assert "There is no run" in parse(render_trend([])).text


def test_blocks_show_the_course() -> None:
    assert blocks([1, 2, 3]) == "▁▅█"
    assert blocks([5, 5]) == "▄▄"
    assert len(blocks(list(range(100)))) == 30


def test_points_stand_where_their_values_are() -> None:
    points = [Point(1, 10.0), Point(2, 30.0, "mid"), Point(3, 20.0, "last", "after")]
    svg = str(draw_points(points, "p", "A title", Axis("run"), Axis("value", "ms")))
    circles = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)"', svg)
    xs, ys = ([float(c[i]) for c in circles] for i in (0, 1))
    assert xs == sorted(xs) and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.01)
    assert ys[1] < ys[2] < ys[0]  # higher values stand higher
    assert svg.count('class="trace"') == 2
    assert "mid: run 2.00, value 30.0" in svg
    alone = str(draw_points([Point(0, 0)], "p", "t", Axis("x"), Axis("y"), lines="none"))
    assert "nan" not in alone and alone.count("<circle") == 1
