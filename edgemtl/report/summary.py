"""What the page, the Markdown and the console all say: the verdict and the main rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.record.rundata import CostFacts, RunData, RunFacts, TaskMetrics
from edgemtl.report import advice, masks
from edgemtl.report.figures import (
    Figure,
    less,
    metric_figures,
    nothing,
    percent,
    plain,
    pointer,
    scaled_figures,
    significant,
    worse,
)
from edgemtl.report.verdict import GateRow, State, Verdict, gate_rows, judge_run
from edgemtl.sinks import shown
from edgemtl.tasks.base import MetricSpec
from edgemtl.tasks.metrics import lost_classes

_SIDES = ("reference", "artefact")
COST_ROWS = (
    ("macs", "Multiply-accumulates", "", "macs_ratio"),
    ("parameters", "Parameters", "", "parameters_ratio"),
    ("size_bytes", "File size", "B", "size_ratio"),
    ("activation_bytes", "Activations written", "B", ""),
    ("peak_activation_bytes", "Activations alive at once", "B", ""),
)
#: where it stands in a latency result, what it is called, its unit
_LATENCY_ROWS = (
    ("summary.p50_ms", "p50", "ms"),
    ("summary.p90_ms", "p90", "ms"),
    ("summary.p99_ms", "p99", "ms"),
    ("summary.mean_ms", "mean", "ms"),
    ("summary.spread", "spread", "share"),
    ("first_inference_ms", "first inference", "ms"),
    ("load_ms", "loading", "ms"),
    ("throughput_per_s", "throughput", "pictures/s"),
    ("memory.peak_bytes", "peak memory", "B"),
    ("preprocess.p50_ms", "pre-processing p50", "ms"),
    ("postprocess.p50_ms", "post-processing p50", "ms"),
)


@dataclass(frozen=True)
class FigureRow:
    """One figure before and after.

    Attributes:
        direction: which way is better, in a word.
        change: in words; worse / better for figures of merit, less / more for costs.
        gates: those that judge this figure.
    """

    label: str
    key: str
    direction: str
    before: Figure
    after: Figure
    change: Figure
    gates: tuple[GateRow, ...] = ()

    @property
    def state(self) -> State:
        """The worst of its gates."""
        found = {gate.state for gate in self.gates}
        order: tuple[State, ...] = ("fail", "unstable", "not-measured", "allowed", "pass")
        return next((state for state in order if state in found), "none")


@dataclass(frozen=True)
class TaskRow:
    """A task: its primary figure, the others, and what was measured on.

    Where it has classes, each one's figure, what lost most first, and which are lost altogether.
    """

    task: str
    primary: FigureRow
    secondary: tuple[FigureRow, ...]
    count: int | None
    note: str
    classes: tuple[FigureRow, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The main things of a run."""

    title: str
    verdict: Verdict
    gates: tuple[GateRow, ...]
    tasks: tuple[TaskRow, ...]
    cost: tuple[FigureRow, ...]
    latency: tuple[FigureRow, ...]
    speedup: str
    labels: tuple[str, ...]
    next_steps: tuple[str, ...]


def summarise_run(run: RunData) -> Summary:
    """Judge and arrange; nothing is measured."""
    gates = gate_rows(run)
    facts = run.run or RunFacts()
    name = facts.name or facts.model.variant or run.folder
    return Summary(
        title=f"{name} for {facts.target.name}" if facts.target.name else name,
        verdict=judge_run(run, gates),
        gates=gates,
        tasks=tuple(_tasks(run, gates)),
        cost=tuple(_cost(run, gates)),
        latency=tuple(_latency(run, gates)),
        speedup=speedup_sentence(run),
        labels=tuple(dict.fromkeys(_labels(run))),
        next_steps=advice.next_steps(run),
    )


# --- accuracy --------------------------------------------------------------------------------


def _tasks(run: RunData, gates: Sequence[GateRow]) -> Iterable[TaskRow]:
    found = run.accuracy
    if found is None:
        return
    reports = [report for report in (found.reference, found.artefact) if report]
    for task in dict.fromkeys([*found.metrics, *(t for r in reports for t in r.tasks)]):
        spec = found.metrics.get(task) or _guessed(task, reports)
        if spec is None:
            continue
        measured = [report.tasks[task] for report in reports if task in report.tasks]
        notes = dict.fromkeys(entry.note for entry in measured if entry.note)
        front = f"tasks.{task}."
        own = tuple(gate for gate in gates if gate.outcome.name.startswith(front))
        yield TaskRow(
            task,
            _merit(run, task, spec.primary, own),
            tuple(_merit(run, task, other) for other in spec.secondary),
            measured[-1].count if measured else None,
            "; ".join(notes),
            *_classes(run, task, spec),
        )


def _classes(
    run: RunData, task: str, spec: TaskMetrics
) -> tuple[tuple[FigureRow, ...], tuple[str, ...]]:
    """The rows of a task's classes, and the names of those that are lost."""
    assert run.accuracy is not None
    sides = [
        report.tasks[task].classes if report and task in report.tasks else {}
        for report in (run.accuracy.reference, run.accuracy.artefact)
    ]
    figure = spec.classes
    rows: list[tuple[float, int, FigureRow]] = []
    if figure is None:
        return (), ()
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(name) for side in sides]
        if values == [None, None]:
            continue
        places = [pointer("accuracy.json", side, "classes", task, shown(name)) for side in _SIDES]
        before, after = metric_figures(values, figure.unit, places)
        change = nothing(text="unknown")
        if before.value is not None and after.value is not None:
            change = worse(figure.relative_drop(before.value, after.value))
        row = FigureRow(shown(name), name, f"{figure.direction} is better", before, after, change)
        fallen = (before.value or 0.0) - (after.value or 0.0)
        rows.append((fallen, len(rows), row))
    ordered = [row for _, _, row in sorted(rows, key=lambda one: (-one[0], one[1]))]
    return tuple(ordered), tuple(lost_classes(*sides))


def _guessed(task: str, reports: Sequence[AccuracyReport]) -> TaskMetrics | None:
    """Keys as labels where nobody said what the figures mean; no direction, so no change."""
    keys = [key for r in reports for key in (r.tasks[task].values if task in r.tasks else ())]
    specs = [MetricSpec(key, key, "higher") for key in dict.fromkeys(keys)]
    return TaskMetrics(specs[0], tuple(specs[1:])) if specs else None


def _merit(run: RunData, task: str, spec: MetricSpec, gates: tuple[GateRow, ...] = ()) -> FigureRow:
    assert run.accuracy is not None
    values: list[float | None] = []
    for report in (run.accuracy.reference, run.accuracy.artefact):
        entry = report.tasks.get(task) if report else None
        value = entry.values.get(spec.key) if entry else None
        values.append(value if value is not None and math.isfinite(value) else None)
    sources = [pointer("accuracy.json", side, "tasks", task, spec.key) for side in _SIDES]
    before, after = metric_figures(values, spec.unit, sources)
    known = task in run.accuracy.metrics
    change = nothing(text="unknown")
    if known and before.value is not None and after.value is not None:
        change = worse(spec.relative_drop(before.value, after.value))
    direction = f"{spec.direction} is better" if known else ""
    return FigureRow(spec.label, spec.key, direction, before, after, change, gates)


# --- cost and latency ------------------------------------------------------------------------


def _cost(run: RunData, gates: Sequence[GateRow]) -> Iterable[FigureRow]:
    for key, label, unit, ratio in COST_ROWS:
        values = [side.figures.get(key) if side else None for side in _sides(run)]
        if values == [None, None]:
            continue
        sources = [pointer("cost.json", side, key) for side in _SIDES]
        before, after = scaled_figures(values, unit, sources, "not counted")
        judging = [f"cost.{ratio}", *(["cost.size_bytes"] if key == "size_bytes" else [])]
        change = less(before.value, after.value)
        yield FigureRow(label, key, "", before, after, change, _named(gates, *judging))


def _named(gates: Iterable[GateRow], *names: str) -> tuple[GateRow, ...]:
    return tuple(gate for gate in gates if gate.outcome.name in names)


def _sides(run: RunData) -> tuple[CostFacts | None, CostFacts | None]:
    return run.cost_before, run.cost_after


def _latency(run: RunData, gates: Sequence[GateRow]) -> Iterable[FigureRow]:
    results = (run.latency_before, run.latency_after)
    for path, label, unit in _LATENCY_ROWS:
        values = [_dig(result, path) for result in results]
        if values == [None, None]:
            continue
        places = [pointer(f"bench/{side}.json", *path.split(".")) for side in _SIDES]
        before, after = _timing(values, unit, places)
        if run.identical and before.value is None:
            before = nothing(before.source, "same file")
        key = path.removeprefix("summary.")
        judging = [f"latency.{key}", *(["latency.ratio"] if key == "p50_ms" else [])]
        change = less(before.value, after.value)
        yield FigureRow(label, key, "", before, after, change, _named(gates, *judging))


def _timing(
    values: Sequence[float | None], unit: str, places: Sequence[str]
) -> tuple[Figure, Figure]:
    if unit == "B":
        before, after = scaled_figures(values, unit, places)
    elif unit == "share":
        before, after = (
            nothing(place) if value is None else Figure(value, percent(value), place)
            for value, place in zip(values, places, strict=True)
        )
    else:
        before, after = (plain(v, unit, place) for v, place in zip(values, places, strict=True))
    return before, after


def _dig(result: object, path: str) -> float | None:
    for name in path.split("."):
        result = getattr(result, name, None)
    return float(result) if isinstance(result, int | float) else None


def speedup_sentence(run: RunData) -> str:
    """The comparison in words; empty when there is none."""
    if run.comparison is None:
        return ""
    found = run.comparison.speedup
    value, low, high = (significant(v) for v in (found.value, found.low, found.high))
    sentence = f"{value} times as fast as uncompressed (95 % interval {low} to {high})"
    return sentence if found.stable else f"{sentence}; not conclusive: {found.reason}"


def float_sentence(run: RunData) -> str:
    """What the lower precision alone does to the speed; empty where there is none."""
    found, method = run.against_float, run.quantisation.method if run.quantisation else ""
    if found is None:
        return ""
    value, low, high = (significant(v) for v in (found.value, found.low, found.high))
    figures = f"{value} times as fast (95 % interval {low} to {high})"
    name = method or "the lower precision"
    if found.high < 1:
        return f"{name} is slower than float32 on this runtime: {figures}"
    if found.low <= 1:
        return f"{name} against float32 on this runtime: no difference in speed is shown, {figures}"
    return f"{name} against float32 on this runtime: {figures}"


def _labels(run: RunData) -> Iterable[str]:
    """What a reader must know before believing a figure."""
    if run.against_float is not None and run.against_float.low <= 1:
        yield float_sentence(run)
    if run.accuracy:
        if run.accuracy.reference and run.accuracy.reference.of:
            yield f"compared with {shown(run.accuracy.reference.of)}"
        for task, spec in run.accuracy.metrics.items():
            if lost := _classes(run, task, spec)[1]:
                named = ", ".join(map(shown, lost[:3])) + (", ..." if len(lost) > 3 else "")
                yield f"{task}: {len(lost)} class{'es' if len(lost) > 1 else ''} lost ({named})"
        for report in (run.accuracy.reference, run.accuracy.artefact):
            if report and is_synthetic(report.data):
                yield "accuracy on synthetic pictures"
    if mean := masks.average(run.masks):
        yield f"cost counts the full network; {mean}"
    for result in (run.latency_before, run.latency_after):
        if result and result.kind != "measured":
            yield f"latency {result.kind}, not measured"
        if result and not result.stable:
            yield "latency unstable"


def is_synthetic(data: str) -> bool:
    """Whether a data set's name says that its pictures are rendered."""
    return "synthetic" in data or "calib_data" in data
