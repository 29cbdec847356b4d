"""Limits and facts in, a verdict out: a pure function that measures nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgemtl.errors import ExitCode, InputRefused, most_serious
from edgemtl.gates.limits import GateLimits
from edgemtl.tasks.base import MetricSpec

Status = Literal["pass", "fail", "not-measured", "unstable"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "not-measured", "unstable")
Figures = Mapping[str, float | None]

#: room for the last bit: 0.50 -> 0.49 is a drop of 0.020000000000000018
_ROUNDING = 1e-9


@dataclass(frozen=True)
class GateFacts:
    """What a run measured, as plain data.

    Attributes:
        metrics: task name -> its primary figure; every task listed here is judged.
        accuracy_before: task name -> figures of the uncompressed network (``AccuracyReport``'s
            ``tasks``); a task that was not evaluated is absent.
        accuracy_after: the same of what is judged.
        notes: task name -> why a figure is None.
        cost_before: ``macs``, ``parameters``, ``size_bytes`` of the uncompressed network; what was
            not counted is absent.
        cost_after: the same of what is judged.
        latency: ``LatencyResult.to_dict()`` of the artefact, or None.
        comparison: ``Comparison.to_dict()`` with the artefact as A and the uncompressed reference
            as B, or None.
        identical: whether the artefact is the uncompressed one, byte for byte, so that there is
            nothing to time against each other.
        against: what the figures before are of, where that needs saying; completes "compared with".
        goals: pruning goals that are to hold, by their recipe key: (share of the uncompressed
            network that is left, share that was asked for, what stopped the search).
    """

    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    accuracy_before: Mapping[str, Figures] = field(default_factory=dict)
    accuracy_after: Mapping[str, Figures] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    cost_before: Figures = field(default_factory=dict)
    cost_after: Figures = field(default_factory=dict)
    latency: Mapping[str, Any] | None = None
    comparison: Mapping[str, Any] | None = None
    identical: bool = False
    against: str = ""
    goals: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class GateOutcome:
    """One gate's verdict.

    Attributes:
        name: ``tasks.<task>.<limit>``, ``latency.<limit>`` or ``cost.<limit>``.
        status: ``pass``, ``fail``, ``not-measured``, or ``unstable`` for a measurement that moved
            too much to be judged.
        measured: what was found, in ``unit``; None when there is no number.
        limit: what it was held against.
        unit: empty for a ratio or a share.
        detail: one sentence for a reader.
        allowed: whether the user allowed this gate to go unmeasured.
    """

    name: str
    status: Status
    measured: float | None
    limit: float
    unit: str = ""
    detail: str = ""
    allowed: bool = False

    def __str__(self) -> str:
        found = "" if self.measured is None else f", {self.measured:.4g} {self.unit}".rstrip()
        limit = f"{self.limit:.4g} {self.unit}".rstrip()
        why = f" ({self.detail})" if self.detail else ""
        return f"{self.name}: {self.status}{found}, limit {limit}{why}"

    @property
    def ok(self) -> bool:
        """Whether this gate lets the run through."""
        return self.status == "pass" or (self.status == "not-measured" and self.allowed)

    @property
    def exit_code(self) -> ExitCode:
        """What this gate alone would make the run leave with."""
        if self.ok:
            return ExitCode.OK
        if self.status == "not-measured":
            return ExitCode.UNAVAILABLE
        if self.status == "unstable":
            return ExitCode.UNSTABLE
        task = self.name.startswith("tasks.")
        return ExitCode.ACCURACY_GATE if task else ExitCode.COST_GATE


@dataclass(frozen=True)
class GateReport:
    """All gates of a run, in the order tasks, latency, cost."""

    outcomes: tuple[GateOutcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate lets the run through."""
        return all(outcome.ok for outcome in self.outcomes)

    def exit_code(self) -> ExitCode:
        """The most serious of the outcomes' codes, OK when all pass."""
        return most_serious(outcome.exit_code for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``gates.json``."""
        return {
            "passed": self.passed,
            "exit_code": int(self.exit_code()),
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> GateReport:
        """Parse :meth:`to_dict`; the verdict is derived anew, not believed.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            outcomes = []
            for row in data["outcomes"]:
                status = row["status"]
                if status not in STATUSES:
                    raise ValueError(f"status {status!r}")
                measured = row["measured"]
                outcomes.append(
                    GateOutcome(
                        name=str(row["name"]),
                        status=status,
                        measured=None if measured is None else float(measured),
                        limit=float(row["limit"]),
                        unit=str(row["unit"]),
                        detail=str(row["detail"]),
                        allowed=bool(row["allowed"]),
                    )
                )
            return GateReport(tuple(outcomes))
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"a gate report is not readable: {error!r}") from error


def judge(limits: GateLimits, facts: GateFacts) -> GateReport:
    """Hold the facts against the limits.

    Every limit that is set gives an outcome; what was not measured is ``not-measured``, never a
    pass. Results that were modelled, emulated or proxied count as not measured.
    """
    outcomes = [*_tasks(limits, facts), *_latency(limits, facts), *_cost(limits, facts)]
    outcomes += [
        _at_most(f"cost.prune.{key}", left, asked, detail=stopped_by or "as pruning measured it")
        for key, (left, asked, stopped_by) in facts.goals.items()
    ]
    return GateReport(
        tuple(
            replace(outcome, allowed=limits.allows_not_measured(outcome.name))
            for outcome in outcomes
        )
    )


def _number(figures: Figures | None, key: str) -> float | None:
    value = None if figures is None else figures.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _at_most(
    name: str, measured: float, limit: float, unit: str = "", detail: str = ""
) -> GateOutcome:
    good = measured <= limit + _ROUNDING * max(1.0, abs(limit))
    return GateOutcome(name, "pass" if good else "fail", measured, limit, unit, detail)


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
        after = _number(facts.accuracy_after.get(task), metric.key)
        if asked.max_relative_drop is not None:
            yield _drop(f"{front}.max_relative_drop", metric, task, facts, asked.max_relative_drop)
        for key, limit in (("min", asked.min), ("max", asked.max)):
            if limit is None:
                continue
            name = f"{front}.{key}"
            if after is None:
                yield _nothing_after(name, metric, task, facts, limit)
                continue
            good = after >= limit - _ROUNDING if key == "min" else after <= limit + _ROUNDING
            status: Status = "pass" if good else "fail"
            yield GateOutcome(name, status, after, limit, metric.unit, metric.label)


def _drop(name: str, metric: MetricSpec, task: str, facts: GateFacts, limit: float) -> GateOutcome:
    before = _number(facts.accuracy_before.get(task), metric.key)
    after = _number(facts.accuracy_after.get(task), metric.key)
    if before is None:
        note = facts.notes.get(task, "")
        detail = f"{metric.label} of the uncompressed network was not measured"
        detail += f" ({note})" if note else ""
        return GateOutcome(name, "not-measured", None, limit, "", detail)
    if after is None:
        return _nothing_after(name, metric, task, facts, limit)
    detail = f"{metric.label} {before:.4g} -> {after:.4g}"
    if facts.against:
        itself = facts.against.startswith("itself:")
        detail += f", compared with {'itself' if itself else facts.against}"
    if before == 0:
        # No share of zero can be stated: worse is a failure, equal is only good for an error.
        worse = metric.relative_drop(before, after) > 0
        if worse or not (metric.direction == "lower" and after == 0):
            status: Status = "fail" if worse else "not-measured"
            return GateOutcome(name, status, None, limit, "", f"{detail}: the reference is 0")
    return _at_most(name, metric.relative_drop(before, after), limit, detail=detail)


def _nothing_after(
    name: str, metric: MetricSpec, task: str, facts: GateFacts, limit: float
) -> GateOutcome:
    note = facts.notes.get(task, "")
    because = f" ({note})" if note else ""
    before = _number(facts.accuracy_before.get(task), metric.key)
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
            yield _at_most(name, float(found["summary"][key]), limit, "ms")
    if limits.latency.ratio is not None:
        yield _ratio(limits.latency.ratio, facts)


def _ratio(limit: float, facts: GateFacts) -> GateOutcome:
    name, comparison = "latency.ratio", facts.comparison
    if facts.identical:
        return _at_most(name, 1.0, limit, detail="byte for byte the uncompressed artefact")
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
    return _at_most(name, ratio, limit, detail=detail)


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
        before, after = (_number(f, figure) for f in (facts.cost_before, facts.cost_after))
        if not before or after is None:
            side = "the uncompressed network" if not before else "the result"
            detail = f"{figure} of {side} were not counted"
            yield GateOutcome(name, "not-measured", None, limit, "", detail)
        else:
            yield _at_most(name, after / before, limit, detail=f"{before:,.0f} -> {after:,.0f}")
    if asked.size_bytes is not None:
        size, name = _number(facts.cost_after, "size_bytes"), "cost.size_bytes"
        if size is None:
            detail = "the artefact's size was not taken"
            yield GateOutcome(name, "not-measured", None, asked.size_bytes, "B", detail)
        else:
            yield _at_most(name, size, asked.size_bytes, "B")
