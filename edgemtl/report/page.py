"""The run as one HTML file that needs nothing else: no script, no request, works offline."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edgemtl import files
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.record.load import load_run
from edgemtl.record.rundata import RunData, RunFacts
from edgemtl.report import designs, masks, sections, tradeoff
from edgemtl.report.markdown import render_markdown
from edgemtl.report.pictures import shown_picture
from edgemtl.report.summary import FigureRow, Summary, is_synthetic, summarise_run
from edgemtl.report.timings import layer_times
from edgemtl.report.verdict import SYMBOLS

TEMPLATES = Path(__file__).parent / "templates"
#: lines of the list of what could not be used
MOST_SKIPPED = 50
_ICON_COLOURS = {"pass": "#1a7f4b", "fail": "#c0362c", "not-measured": "#9a6700"}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` and ``report.md`` into a run folder; return the path of the page.

    Raises:
        InputRefused: the folder holds no run.
        StageFailed: a file cannot be written.
    """
    run = load_run(folder)
    page = folder / "report.html"
    files.write_text(page, render_html(run))
    files.write_text(folder / "report.md", render_markdown(run))
    return page


def render_html(run: RunData) -> str:
    """The page; the same run gives the same text."""
    summary = summarise_run(run)
    return render(
        "report.html",
        summary.verdict.state,
        run=run,
        facts=run.run or RunFacts(),
        summary=summary,
        tiles=_tiles(summary),
        data_notes=_data_notes(run),
        pictures=[shown for picture in run.pictures if (shown := shown_picture(picture))],
        skipped=_skipped(run),
        modules=sections.modules(run),
        modules_compared=bool(run.cost_before and run.cost_before.per_node and run.cost_after),
        uncounted=run.cost_after.uncounted if run.cost_after else (),
        folded=sections.folded(run),
        nodes=sections.nodes(run),
        histogram=sections.histogram(run),
        interval=sections.interval(run),
        latency_facts=sections.latency_facts(run),
        times=layer_times(run),
        tradeoff=tradeoff.plots(run),
        design=designs.section(run.design, _macs(run)),
        parity=sections.parity(run),
        stages=sections.stages(run),
        changes=sections.changes(run),
        masks=masks.section(run.masks),
        recipe=json.dumps((run.run or RunFacts()).recipe, indent=2, ensure_ascii=False),
    )


def render(template: str, state: str, **found: Any) -> str:
    """One of the templates as a page with the style sheet in it, and an icon that tells the state.

    Every text in ``found`` is escaped unless it is ``Markup``.
    """
    style = (TEMPLATES / "report.css").read_text("utf-8")
    html: str = (
        _environment()
        .get_template(template)
        .render(
            symbols=SYMBOLS,
            style=Markup(style),
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            icon=_icon(state),
            **found,
        )
    )
    return html


@lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _icon(state: str) -> str:
    """The tab's icon as a data URI, so that several open reports are told apart."""
    shape = {
        "pass": '<path d="M8 17l5 5 11-12" fill="none" stroke="#fff" stroke-width="4"/>',
        "fail": '<path d="M9 9l14 14M23 9L9 23" stroke="#fff" stroke-width="4"/>',
        "not-measured": '<path d="M8 16h16" stroke="#fff" stroke-width="4"/>',
    }[state]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<circle cx="16" cy="16" r="16" fill="{_ICON_COLOURS[state]}"/>{shape}</svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


@dataclass(frozen=True)
class _Tile:
    label: str
    note: str
    row: FigureRow


def _tiles(summary: Summary) -> list[_Tile]:
    """The figures that a reader looks for first."""
    tiles = [_Tile(row.task, row.primary.label, row.primary) for row in summary.tasks]
    tiles += [_Tile("latency", "p50", row) for row in summary.latency if row.key == "p50_ms"]
    tiles += [
        _Tile("cost" if row.key == "macs" else "size", row.label, row)
        for row in summary.cost
        if row.key in ("macs", "size_bytes")
    ]
    return tiles


def _reports(run: RunData) -> list[AccuracyReport]:
    found = (run.accuracy.reference, run.accuracy.artefact) if run.accuracy else ()
    return [report for report in found if report]


def _skipped(run: RunData) -> list[str]:
    """Pictures and labels that could not be used, each once."""
    lines = dict.fromkeys(line for report in _reports(run) for line in report.skipped)
    shown = list(lines)[:MOST_SKIPPED]
    left = len(lines) - len(shown)
    return [*shown, f"... and {left} more"] if left else shown


def _data_notes(run: RunData) -> list[str]:
    """What accuracy was measured on, one sentence per different set."""
    found = []
    for report in _reports(run):
        named = report.data or "an unnamed data set"
        skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
        text = f"Measured on {report.images:,} pictures of {named}{skipped}"
        text += f"; {report.protocol}." if report.protocol else "."
        if is_synthetic(report.data):
            text += " These pictures are synthetic: the figures say nothing about real ones."
        found.append(text)
    return list(dict.fromkeys(found))


def _macs(run: RunData) -> float | None:
    """Multiply-accumulates of the network that was compiled; None where nobody counted."""
    cost = run.cost_after or run.cost_before
    value = cost.figures.get("macs") if cost is not None else None
    return float(value) if isinstance(value, int | float) else None
