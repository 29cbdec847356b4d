"""Limits and facts in, a verdict out: a pure function that measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgemtl.gates.classes import class_gates, lost_sentence
from edgemtl.gates.limits import GateLimits
from edgemtl.gates.outcome import (
    ROUNDING,
    STATUSES,
    GateFacts,
    GateOutcome,
    GateReport,
    Status,
    at_most,
    number,
)
from edgemtl.tasks.base import MetricSpec

__all__ = ["STATUSES", "GateFacts", "GateOutcome", "GateReport", "Status", "judge"]


def judge(limits: GateLimits, facts: GateFacts) -> GateReport:
    """Hold the facts against the limits.

    Every limit that is set gives an outcome; what was not measured is ``not-measured``, never a
    pass. Results that were modelled, emulated or proxied count as not measured.
    """
    outcomes = [*_tasks(limits, facts), *_latency(limits, facts), *_cost(limits, facts)]
    outcomes += [
        at_most(f"cost.prune.{key}", left, asked, detail=stopped_by or "as pruning measured it")
        for key, (left, asked, stopped_by) in facts.goals.items()
    ]
    return GateReport(
        tuple(
            replace(outcome, allowed=limits.allows_not_measured(outcome.name))
            for outcome in outcomes
        )
    )


def _tasks(limits: GateLimits, facts: GateFacts) -> Iterator[GateOutcome]:
    for task in [*facts.metrics, *(name for name in limits.tasks if name not in facts.metrics)]:
        asked = limits.task(task)
        front = f"tasks.{task}"
        metric = facts.metrics.get(task)
        if metric is None:
            for key in ("max_relative_drop", "min", "max"):
                if (limit := getattr(asked, key)) is not None:
                    detail = f"the network has no task '{task}'"
                    yield GateOutcome(f"{front}.{key}", "not-measured", None, limit, "", detail)
            continue
        if asked.max_relative_drop is not None:
            yield _drop(f"{front}.max_relative_drop", metric, task, facts, asked.max_relative_drop)
        yield from _between(front, metric, task, facts, asked.min, asked.max)
        for key, bounds in asked.figures.items():
            own = {metric.key: metric, **facts.other_metrics.get(task, {})}
            if key in own:
                name = f"{front}.figures.{key}"
                yield from _between(name, own[key], task, facts, bounds.min, bounds.max)
                continue
            for side in ("min", "max"):
                if (limit := getattr(bounds, side)) is not None:
                    detail = f"the task has no figure '{key}'; it has: {', '.join(own)}"
                    name = f"{front}.figures.{key}.{side}"
                    yield GateOutcome(name, "not-measured", None, limit, "", detail)
        yield from class_gates(f"{front}.classes", asked.classes, task, facts, None)
        for name, one in asked.classes.named.items():
            yield from class_gates(f"{front}.classes.named.{name}", one, task, facts, name)


def _between(
    front: str,
    metric: MetricSpec,
    task: str,
    facts: GateFacts,
    least: float | None,
    most: float | None,
) -> Iterator[GateOutcome]:
    after = number(facts.accuracy_after.get(task), metric.key)
    for key, limit in (("min", least), ("max", most)):
        if limit is None:
            continue
        name = f"{front}.{key}"
        if after is None:
            yield _nothing_after(name, metric, task, facts, limit)
            continue
        good = after >= limit - ROUNDING if key == "min" else after <= limit + ROUNDING
        status: Status = "pass" if good else "fail"
        yield GateOutcome(name, status, after, limit, metric.unit, metric.label)


def _drop(name: str, metric: MetricSpec, task: str, facts: GateFacts, limit: float) -> GateOutcome:
    before = number(facts.accuracy_before.get(task), metric.key)
    after = number(facts.accuracy_after.get(task), metric.key)
    if before is None:
        note = facts.notes.get(task, "")
        detail = f"{metric.label} of the uncompressed network was not measured"
        detail += f" ({note})" if note else ""
        return GateOutcome(name, "not-measured", None, limit, "", detail)
    if after is None:
        return _nothing_after(name, metric, task, facts, limit)
    detail = f"{metric.label} {before:.4g} -> {after:.4g}{lost_sentence(task, facts)}"
    if facts.against:
        itself = facts.against.startswith("itself:")
        detail += f", compared with {'itself' if itself else facts.against}"
    if before == 0:
        # No share of zero can be stated: worse is a failure, equal is only good for an error.
        worse = metric.relative_drop(before, after) > 0
        if worse or not (metric.direction == "lower" and after == 0):
            status: Status = "fail" if worse else "not-measured"
            return GateOutcome(name, status, None, limit, "", f"{detail}: the reference is 0")
    return at_most(name, metric.relative_drop(before, after), limit, detail=detail)


def _nothing_after(
    name: str, metric: MetricSpec, task: str, facts: GateFacts, limit: float
) -> GateOutcome:
    note = facts.notes.get(task, "")
    because = f" ({note})" if note else ""
    before = number(facts.accuracy_before.get(task), metric.key)
    if task in facts.accuracy_after and before is not None:
        # It was evaluated on the same data and has no figure any more: it stopped working.
        detail = f"{metric.label} {before:.4g} -> nothing{because}"
        return GateOutcome(name, "fail", None, limit, "", detail)
    detail = f"{metric.label} was not measured{because}"
    return GateOutcome(name, "not-measured", None, limit, "", detail)


def _latency(limits: GateLimits, facts: GateFacts) -> Iterator[GateOutcome]:
    for key in ("p50_ms", "p90_ms", "p99_ms"):
        limit = getattr(limits.latency, key)
        if limit is None:
            continue
        name, found = f"latency.{key}", facts.latency
        if found is None:
            yield GateOutcome(name, "not-measured", None, limit, "ms", "no latency was measured")
        elif found["kind"] != "measured":
            detail = f"the latency is {found['kind']}, not measured"
            yield GateOutcome(name, "not-measured", None, limit, "ms", detail)
        elif not found["stable"]:
            measured = float(found["summary"][key])
            yield GateOutcome(name, "unstable", measured, limit, "ms", str(found["reason"]))
        else:
            yield at_most(name, float(found["summary"][key]), limit, "ms")
    if limits.latency.ratio is not None:
        yield _ratio(limits.latency.ratio, facts)


def _ratio(limit: float, facts: GateFacts) -> GateOutcome:
    name, comparison = "latency.ratio", facts.comparison
    if facts.identical:
        return at_most(name, 1.0, limit, detail="byte for byte the uncompressed artefact")
    if comparison is None:
        detail = "artefact and uncompressed reference were not timed against each other"
        return GateOutcome(name, "not-measured", None, limit, "", detail)
    kinds = {str(comparison[side]["kind"]) for side in ("a", "b")} - {"measured"}
    if kinds:
        detail = f"the latency is {', '.join(sorted(kinds))}, not measured"
        return GateOutcome(name, "not-measured", None, limit, "", detail)
    speedup = comparison["speedup"]
    ratio, low, high = (1 / float(speedup[key]) for key in ("value", "high", "low"))
    detail = f"artefact / uncompressed, 95 % interval {low:.3f} to {high:.3f}"
    if not speedup["stable"] and low <= limit < high:
        # A wide interval still decides when all of it lies on one side.
        detail = f"{detail}: {speedup['reason']}"
        return GateOutcome(name, "unstable", ratio, limit, "", detail)
    return at_most(name, ratio, limit, detail=detail)


def _cost(limits: GateLimits, facts: GateFacts) -> Iterator[GateOutcome]:
    asked = limits.cost
    for key, figure, limit in (
        ("macs_ratio", "macs", asked.macs),
        ("parameters_ratio", "parameters", asked.parameters_ratio),
        ("size_ratio", "size_bytes", asked.size_ratio),
    ):
        if limit is None:
            continue
        name = f"cost.{key}"
        before, after = (number(f, figure) for f in (facts.cost_before, facts.cost_after))
        if not before or after is None:
            side = "the uncompressed network" if not before else "the result"
            detail = f"{figure} of {side} were not counted"
            yield GateOutcome(name, "not-measured", None, limit, "", detail)
        else:
            yield at_most(name, after / before, limit, detail=f"{before:,.0f} -> {after:,.0f}")
    if asked.size_bytes is not None:
        size, name = number(facts.cost_after, "size_bytes"), "cost.size_bytes"
        if size is None:
            detail = "the artefact's size was not taken"
            yield GateOutcome(name, "not-measured", None, asked.size_bytes, "B", detail)
        else:
            yield at_most(name, size, asked.size_bytes, "B")
