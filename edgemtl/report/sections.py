"""The parts of the page below the main rows, arranged for the template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from edgemtl.measure.results import LatencyResult
from edgemtl.record.rundata import Changes, RunData
from edgemtl.report import charts
from edgemtl.report.figures import (
    DASH,
    Figure,
    less,
    nothing,
    percent,
    plain,
    pointer,
    scaled_figures,
    seconds,
    worse,
)
from edgemtl.report.modules import ModuleWork, costly_modules
from edgemtl.report.summary import float_sentence

#: rows of the per-node table
MOST_NODES = 400
_STAGE_STATES = {
    "done": ("\u2713", "pass"),
    "cached": ("\u2713", "pass"),
    "failed": ("\u2717", "fail"),
    "skipped": (DASH, "none"),
}


@dataclass(frozen=True)
class ModuleRow:
    """One row of the table of modules: its work before and after, and its share as a bar."""

    work: ModuleWork
    before: Figure
    after: Figure
    parameters: Figure
    change: Figure
    share: Figure
    bar: Markup


def modules(run: RunData) -> list[ModuleRow]:
    """Where the multiply-accumulates go, by module, the costliest opened further."""
    after = run.cost_after or run.cost_before
    if after is None or not after.per_node:
        return []
    before = run.cost_before.per_node if run.cost_before and run.cost_after else ()
    works = costly_modules(after.per_node, before)
    widest = max((max(w.share, w.share_before or 0.0) for w in works), default=1.0) or 1.0
    values = [w.macs for w in works] + [w.macs_before for w in works]
    figures = scaled_figures(values, "", [""] * len(values))
    counts = scaled_figures([w.parameters for w in works], "", [""] * len(works))
    rows = []
    for index, work in enumerate(works):
        behind = None if work.share_before is None else work.share_before / widest
        rows.append(
            ModuleRow(
                work,
                figures[len(works) + index],
                figures[index],
                counts[index],
                less(work.macs_before, work.macs),
                Figure(work.share, percent(work.share)),
                charts.draw_bar(work.share / widest, behind),
            )
        )
    return rows


def folded(run: RunData) -> list[str]:
    """What the torch networks have where their graphs have other counts, a sentence for each."""
    found = []
    for label, cost in (("Before", run.cost_before), ("After", run.cost_after)):
        own = cost.network if cost else {}
        if cost is None or len(own) < 2 or all(own[k] == cost.figures.get(k) for k in own):
            continue
        macs, parameters = own["macs"], own["parameters"]
        found.append(
            f"{label}: the network in torch, as inspect and prune count it, has "
            f"{macs / 1e6:,.1f} M MACs and {parameters:,.0f} parameters; in the graph norms are "
            "folded into convolutions and computed tables are stored."
        )
    return found


def nodes(run: RunData) -> list[dict[str, Any]]:
    """The costliest nodes of the graph."""
    side, cost = ("artefact", run.cost_after) if run.cost_after else ("reference", run.cost_before)
    nodes = cost.per_node if cost else ()
    costly = sorted(enumerate(nodes), key=lambda item: (-item[1].macs, item[0]))
    found = []
    for index, node in costly[:MOST_NODES]:
        places = [
            pointer("cost.json", side, "per_node", index, key) for key in ("macs", "parameters")
        ]
        found.append(
            {
                "node": node,
                "macs": Figure(node.macs, f"{node.macs:,.0f}", places[0]),
                "parameters": Figure(node.parameters, f"{node.parameters:,.0f}", places[1]),
            }
        )
    return found


def _results(run: RunData) -> list[tuple[str, LatencyResult]]:
    sides = (("uncompressed", run.latency_before), ("compiled", run.latency_after))
    return [(label, result) for label, result in sides if result]


def histogram(run: RunData) -> dict[str, Any] | None:
    """Latency samples of both artefacts on one axis; None when nothing was timed."""
    series = [
        charts.Series(
            label,
            "before" if label == "uncompressed" else "after",
            result.samples_ms,
            [(key, getattr(result.summary, f"{key}_ms")) for key in ("p50", "p90", "p99")],
        )
        for label, result in _results(run)
    ]
    found = charts.count_timings(series)
    if found is None:
        return None
    rows = [
        (f"{low:.4g} to {high:.4g}", [counts[index] for counts in found.counts])
        for index, (low, high) in enumerate(
            zip(found.edges_ms[:-1], found.edges_ms[1:], strict=True)
        )
        if any(counts[index] for counts in found.counts)
    ]
    return {
        "svg": charts.draw_histogram(found, "timings"),
        "labels": [s.label for s in found.series],
        "rows": rows,
        "beyond": [
            f"{count} of the {s.label} network's {len(s.samples)} runs"
            for s, count in zip(found.series, found.beyond, strict=True)
            if count
        ],
        "last": f"{found.edges_ms[-1]:.4g} ms",
    }


def interval(run: RunData) -> dict[str, Any] | None:
    """The speed-up with its interval, drawn; None when nothing was compared."""
    if run.comparison is None:
        return None
    found = run.comparison.speedup
    places = [pointer("bench/comparison.json", "speedup", key) for key in ("value", "low", "high")]
    value, low, high = (
        plain(v, "", place)
        for v, place in zip((found.value, found.low, found.high), places, strict=True)
    )
    drawable = 0 < found.low <= found.value <= found.high
    svg = charts.draw_interval(found.value, found.low, found.high, "speedup") if drawable else ""
    return {
        "svg": svg,
        "value": value,
        "low": low,
        "high": high,
        "stable": found.stable,
        "reason": found.reason,
        "pairs": run.comparison.pairs,
        "runs": run.comparison.runs_per_block,
        "slower": found.high < 1,
        "even": found.low <= 1 <= found.high,
    }


def latency_facts(run: RunData) -> list[tuple[str, list[tuple[str, str]]]]:
    """What each latency was measured on, as label and text."""
    found = []
    for label, result in _results(run):
        machine = result.machine
        facts = [
            ("Kind", result.kind),
            ("Stable", "yes" if result.stable else f"no: {result.reason}"),
            ("Timed runs", f"{result.summary.count:,} after {result.warmup_runs} to warm up"),
            ("Measurements taken", str(result.attempts)),
            ("Fed with", result.fed),
            ("Batch", str(result.batch)),
            ("Threads asked", str(result.threads) if result.threads else "the runtime chooses"),
            ("Threads of the process", str(result.process_threads)),
            ("Machine", f"{machine.cpu}, {machine.cores} cores, {machine.system}"),
        ]
        optional = [
            ("Load average before", machine.load_1min, ""),
            ("Clock before", machine.frequency_mhz, "MHz"),
            ("Temperature before", machine.temperature_c, "°C"),
            ("Temperature after", result.machine_after.temperature_c, "°C"),
        ]
        if meanwhile := result.telemetry:
            optional += [
                ("Lowest clock meanwhile", meanwhile.frequency_min_mhz, "MHz"),
                ("Highest temperature meanwhile", meanwhile.temperature_max_c, "°C"),
                ("Times throttled meanwhile", meanwhile.throttled, ""),
                ("Mean power meanwhile", meanwhile.power_w, "W"),
            ]
        facts += [(word, plain(v, unit).text) for word, v, unit in optional if v is not None]
        found.append((label, facts))
    return found


def parity(run: RunData) -> list[dict[str, Any]]:
    """Rows of the parity table."""
    found = []
    for row in run.parity or ():
        equal = row.snr_db is None and row.max_abs == 0
        snr = nothing(text="no difference") if equal else plain(row.snr_db, "dB")
        place = ("parity.json", "stages", row.after, "outputs", row.position)
        found.append(
            {
                "row": row,
                "max_abs": plain(row.max_abs, "", pointer(*place, "max_abs")),
                "relative": plain(row.relative, "", pointer(*place, "max_relative")),
                "snr_db": snr if equal else replace(snr, source=pointer(*place, "snr_db")),
            }
        )
    return found


def stages(run: RunData) -> list[dict[str, Any]]:
    """The stages with how long each took, relative to the longest."""
    stages = run.run.stages if run.run else ()
    longest = max((s.seconds or 0.0 for s in stages), default=0.0) or 1.0
    return [
        {
            "stage": stage,
            "symbol": _STAGE_STATES.get(stage.status, ("", "none"))[0],
            "state": _STAGE_STATES.get(stage.status, ("", "none"))[1],
            "time": seconds(stage.seconds, pointer("run.json", "stages", index, "seconds")),
            "bar": charts.draw_bar((stage.seconds or 0.0) / longest),
        }
        for index, stage in enumerate(stages)
    ]


def changes(run: RunData) -> list[dict[str, Any]]:
    """Pruning and quantisation, as far as the run did them."""
    done = (("Pruning", "prune", run.pruning), ("Quantisation", "quantize", run.quantisation))
    return [
        _changes(title, kind, found, float_sentence(run) if kind == "quantize" else "")
        for title, kind, found in done
        if found and (found.rows or found.notes)
    ]


def _changes(title: str, kind: str, found: Changes, speed: str) -> dict[str, Any]:
    """Widths before and after, and which change cost which task how much."""
    widest = max((max(r.before or 0.0, r.after or 0.0) for r in found.rows), default=0.0) or 1.0
    tasks = list(dict.fromkeys(task for row in found.rows for task in row.drops))
    rows = []
    for row in found.rows:
        drops = [worse(row.drops.get(task)) for task in tasks]
        rows.append(
            {
                "name": row.name,
                "precision": row.precision,
                "before": _width(row.before),
                "after": _width(row.after),
                "change": less(row.before, row.after),
                "bar": charts.draw_bar((row.after or 0.0) / widest, (row.before or 0.0) / widest),
                "drops": [drop if drop.value is not None else nothing(text=DASH) for drop in drops],
            }
        )
    if kind == "prune":
        caption = "Widths of the channel groups" + (", and what each cut did to each task's loss")
    elif tasks:
        caption = "Layers, and what each alone costs each task, as a share of what all cost it"
    else:
        caption = "Layers, and what they compute in"
    return {
        "notes": [*([speed] if speed else []), *found.notes],
        "id": kind,
        "title": title,
        "method": found.method,
        "caption": caption,
        "rows": rows,
        "tasks": tasks,
        "widths": any(row.before is not None or row.after is not None for row in found.rows),
        "precisions": any(row.precision for row in found.rows),
    }


def _width(value: float | None) -> Figure:
    return nothing(text=DASH) if value is None else Figure(value, f"{value:,.0f}")
