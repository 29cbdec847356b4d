"""What changed between two runs, and whether that is worse than allowed. Nothing is measured here.

A figure that can be compared passes or fails; one that cannot gets a name of its own, because
"nobody knows" must never look like a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgemtl.errors import ExitCode, most_serious
from edgemtl.gates.limits import GateLimits, RegressionLimits
from edgemtl.gates.snapshot import LatencySamples, Snapshot, TaskFigure
from edgemtl.measure.statistics import quantile_ratios, summarise

#: ``new``: no baseline has it; ``missing``: the baseline has it, the run does not; ``unknown``:
#: both have something that cannot be compared; ``reported``: compared, and nothing limits it
Status = Literal["pass", "improved", "fail", "new", "missing", "unknown", "unstable", "reported"]

#: below this many timings a 99th percentile is hardly more than the slowest one
FEWEST_FOR_P99 = 100
#: room for the last bit
_ROUNDING = 1e-9
_COST_UNITS = {"size_bytes": "B"}


@dataclass(frozen=True)
class Change:
    """One figure in two runs.

    Attributes:
        name: ``regression.tasks.<task>.<figure>``, ``regression.cost.<figure>`` or
            ``regression.latency.<figure>``.
        status: see :data:`Status`.
        before, after: in ``unit``; None when there is none.
        change: how much worse, as a share of ``before`` (negative is better); None when unknown.
        low, high: bounds of the 95 % interval of ``change``, for latency.
        limit: largest ``change`` allowed; None when the figure is only reported.
        direction: which way is better.
        detail: one sentence.
        allowed: whether the user allowed this figure to stay unjudged.
    """

    name: str
    status: Status
    before: float | None
    after: float | None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    unit: str = ""
    direction: str = "lower"
    label: str = ""
    detail: str = ""
    allowed: bool = False

    @property
    def ok(self) -> bool:
        """Whether this figure lets the run through."""
        if self.status in ("pass", "improved", "new", "reported"):
            return True
        if self.status == "fail":
            return False
        return self.limit is None or self.allowed

    @property
    def exit_code(self) -> ExitCode:
        """What this figure alone would make the command leave with."""
        if self.ok:
            return ExitCode.OK
        if self.status == "fail":
            task = self.name.startswith("regression.tasks.")
            return ExitCode.ACCURACY_GATE if task else ExitCode.COST_GATE
        return ExitCode.UNSTABLE if self.status == "unstable" else ExitCode.UNAVAILABLE


@dataclass(frozen=True)
class RegressionReport:
    """Everything that two runs have between them, in the order tasks, cost, latency.

    Attributes:
        before, after: names of the two.
        changes: one per figure.
    """

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure lets the run through."""
        return all(change.ok for change in self.changes)

    def exit_code(self) -> ExitCode:
        """The most serious of the figures' codes, OK when all let it through."""
        return most_serious(change.exit_code for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "passed": self.passed,
            "exit_code": int(self.exit_code()),
            "changes": [asdict(change) | {"ok": change.ok} for change in self.changes],
        }


def compare(
    before: Snapshot, after: Snapshot, limits: GateLimits | None = None
) -> RegressionReport:
    """Hold every figure of ``after`` against that of ``before``.

    Without ``limits`` nothing is judged: every figure that can be compared is ``reported``.
    """
    asked = limits.regression if limits else None
    changes = [
        *_tasks(before, after, asked),
        *_costs(before, after, asked),
        *_latency(before.latency, after.latency, asked),
    ]
    if limits is not None:
        changes = [replace(c, allowed=limits.allows_not_measured(c.name)) for c in changes]
    return RegressionReport(before.name, after.name, tuple(changes))


# --- accuracy --------------------------------------------------------------------------------


def _tasks(before: Snapshot, after: Snapshot, limits: RegressionLimits | None) -> Iterator[Change]:
    other_data = ""
    if (before.data, before.images) != (after.data, after.images):
        sides = [f"{s.images} pictures of {s.data or 'an unnamed set'}" for s in (before, after)]
        other_data = f"measured on other data: {sides[0]}, then {sides[1]}"
    for task in dict.fromkeys([*before.tasks, *after.tasks]):
        olds, news = before.tasks.get(task, {}), after.tasks.get(task, {})
        for key in dict.fromkeys([*olds, *news]):
            old, new = olds.get(key), news.get(key)
            known = new or old
            assert known is not None
            limit = limits.task(task) if limits and known.primary else None
            yield _merit(f"regression.tasks.{task}.{key}", old, new, limit, other_data)


def _merit(
    name: str, old: TaskFigure | None, new: TaskFigure | None, limit: float | None, problem: str
) -> Change:
    known = new or old
    assert known is not None
    values = (old.value if old else None, new.value if new else None)
    if old and new and old.direction != new.direction:
        problem = "the direction that is better has changed"
    sign = -1.0 if known.direction == "higher" else 1.0
    return _judged(name, *values, limit, problem, sign, known.unit, known.direction, known.label)


def _judged(
    name: str,
    before: float | None,
    after: float | None,
    limit: float | None,
    problem: str,
    sign: float = 1.0,
    unit: str = "",
    direction: str = "lower",
    label: str = "",
) -> Change:
    def told(status: Status, change: float | None = None, detail: str = "") -> Change:
        return Change(
            name, status, before, after, change, None, None, limit, unit, direction, label, detail
        )

    if before is None:
        nothing = "neither run has a figure" if after is None else ""
        return told("unknown" if after is None else "new", detail=nothing)
    if after is None:
        return told("missing", detail="the baseline has this figure, the run does not")
    if problem:
        return told("unknown", detail=problem)
    if before == 0:
        worse = sign * (after - before)
        if worse == 0:
            return told("pass" if limit is not None else "reported", 0.0)
        word: Status = "fail" if worse > 0 else "improved"
        return told(word if limit is not None else "reported", None, "the baseline is 0")
    change = sign * (after - before) / abs(before)
    return told(_verdict(change, limit), change)


def _verdict(change: float, limit: float | None) -> Status:
    if limit is None:
        return "reported"
    if change > limit + _ROUNDING:
        return "fail"
    return "improved" if change < -max(limit, _ROUNDING) else "pass"


# --- cost and latency ------------------------------------------------------------------------


def _costs(before: Snapshot, after: Snapshot, limits: RegressionLimits | None) -> Iterator[Change]:
    for key in dict.fromkeys([*before.cost, *after.cost]):
        limit = limits.max_cost if limits else None
        values = (before.cost.get(key), after.cost.get(key))
        unit = _COST_UNITS.get(key, "")
        yield _judged(f"regression.cost.{key}", *values, limit, "", unit=unit, label=key)


def _latency(
    before: LatencySamples | None, after: LatencySamples | None, limits: RegressionLimits | None
) -> Iterator[Change]:
    if before is None and after is None:
        return
    asked: Mapping[str, float | None] = {
        "p50_ms": limits.max_latency if limits else None,
        "p99_ms": limits.max_p99 if limits else None,
    }
    olds, news = (summarise(s.samples_ms).to_dict() if s else {} for s in (before, after))
    ratios = None
    if before and after:
        ratios = dict(
            zip(asked, quantile_ratios(after.samples_ms, before.samples_ms, (50, 99)), strict=True)
        )
    for key, limit in asked.items():
        name = f"regression.latency.{key}"
        change = _judged(name, olds.get(key), news.get(key), limit, "", unit="ms", label=key[:3])
        if ratios is None or before is None or after is None:
            yield change
            continue
        ratio = ratios[key]
        change = replace(change, change=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)
        status, detail = _timing_verdict(key, before, after, change, limit)
        yield replace(change, status=status, detail=detail)


def _timing_verdict(
    key: str, before: LatencySamples, after: LatencySamples, change: Change, limit: float | None
) -> tuple[Status, str]:
    assert change.change is not None and change.low is not None and change.high is not None
    interval = f"95 % interval {change.low:+.1%} to {change.high:+.1%}"
    problem = _not_comparable(before, after)
    if not problem and key == "p99_ms":
        fewest = min(len(before.samples_ms), len(after.samples_ms))
        if fewest < FEWEST_FOR_P99:
            problem = f"{fewest} runs are too few for a 99th percentile ({FEWEST_FOR_P99} needed)"
    if problem:
        return "unknown", problem
    moved = [f"{w}: {s.reason}" for w, s in (("before", before), ("after", after)) if not s.stable]
    if limit is None:
        return "reported", "; ".join([interval, *moved])
    if moved:
        return "unstable", "; ".join(moved)
    if change.change > limit + _ROUNDING:
        if change.low > 0:
            return "fail", interval
        return "pass", f"{interval}: over the limit, but within the noise of the two runs"
    return ("improved" if change.high < 0 and -change.change > limit else "pass"), interval


def _not_comparable(before: LatencySamples, after: LatencySamples) -> str:
    for what, old, new in (
        ("machine", before.machine, after.machine),
        ("number of threads", before.threads, after.threads),
    ):
        if old != new:
            return f"another {what}: {old}, then {new}"
    kinds = {side.kind for side in (before, after)} - {"measured"}
    return f"the latency is {', '.join(sorted(kinds))}, not measured" if kinds else ""
