"""What all results have, and the figures that several of them hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgemtl.errors import ExitCode, GatesFailed
from edgemtl.measure.results import LatencyResult
from edgemtl.measure.statistics import median_interval
from edgemtl.report.figures import metric_figures, nothing, worse
from edgemtl.tasks.base import MetricSpec


class Outcome(ABC):
    """A result that may be not good enough.

    ``print(result)`` shows it as the verb does.
    """

    @property
    @abstractmethod
    def exit_code(self) -> ExitCode:
        """What the verb would leave with (docs/exit-codes.md)."""

    @property
    @abstractmethod
    def reason(self) -> str:
        """Why it did not pass, in sentences; empty if it did."""

    @property
    def passed(self) -> bool:
        """Whether the verb would leave with 0."""
        return self.exit_code == ExitCode.OK

    def raise_for_gates(self) -> None:
        """Do nothing if it passed.

        Raises:
            GatesFailed: it did not; the error's ``exit_code`` is that of the result.
        """
        if not self.passed:
            raise GatesFailed(self.reason, self.exit_code)


@dataclass(frozen=True)
class Cost:
    """A counted cost.

    Attributes:
        before: of the network that went in; None where it was not counted.
        after: of the result.
    """

    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """``after / before``; None where one of them is not known."""
        return self.after / self.before if self.before and self.after is not None else None

    def __str__(self) -> str:
        sides = ["unknown" if v is None else f"{v:,.0f}" for v in (self.before, self.after)]
        share = "" if self.ratio is None else f" ({self.ratio:.1%})"
        return f"{sides[0]} -> {sides[1]}{share}"


@dataclass(frozen=True)
class TaskResult:
    """One task's primary figure.

    Attributes:
        name: of the task.
        label: of the figure: "mean pose error".
        unit: of the figure: "deg"; empty for a share or an index.
        direction: which way is better.
        value: of what was measured; None where there was nothing to measure.
        reference: the same figure of the network it is compared with; None without one.
        drop: how much worse ``value`` is than ``reference``, as a share of it (negative is better);
            None where that cannot be said.
        count: labelled items that were measured.
        note: why something is None, or what a reader must know.
        figures: key -> value of all figures of the task, the primary one included.
    """

    name: str
    label: str
    unit: str
    direction: Literal["higher", "lower"]
    value: float | None
    reference: float | None = None
    drop: float | None = None
    count: int = 0
    note: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)

    def cells(self) -> tuple[str, str, str, str, str]:
        """Task, figure, before, after and change in words."""
        before, after = metric_figures([self.reference, self.value], self.unit, ["", ""])
        change = nothing() if self.drop is None else worse(self.drop)
        return (self.name, self.label, before.text, after.text, change.text)

    def __str__(self) -> str:
        _, label, before, after, change = self.cells()
        against = "" if self.reference is None else f" (before: {before}; {change})"
        return f"{self.name}: {label} {after}{against}"


def task_result(
    name: str,
    metric: MetricSpec,
    value: Mapping[str, float | None],
    reference: Mapping[str, float | None] | None = None,
    count: int = 0,
    note: str = "",
) -> TaskResult:
    """A task of an accuracy report, beside the report that it is compared with."""
    after, before = value.get(metric.key), (reference or {}).get(metric.key)
    known = before is not None and after is not None and before != 0
    drop = metric.relative_drop(before or 0, after or 0) if known else None
    return TaskResult(
        name=name,
        label=metric.label,
        unit=metric.unit,
        direction=metric.direction,
        value=after,
        reference=before,
        drop=drop,
        count=count,
        note=note,
        figures=dict(value),
    )


@dataclass(frozen=True)
class Latency:
    """How long one inference of one picture takes.

    Attributes:
        p50_ms: median, in milliseconds.
        low_ms, high_ms: 95 % interval of the median within this measurement; another occasion may
            differ by more.
        p90_ms, p99_ms: percentiles.
        runs: timed inferences.
        threads: of the runtime; 0 means that the runtime chose.
        machine: the processor that it was measured on.
        stable: whether the figures may be quoted.
        reason: one sentence when not stable, else empty.
        kind: ``measured``, or another word where a model or an emulator said so.
        details: everything that was recorded, every sample included.
    """

    p50_ms: float
    low_ms: float
    high_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    threads: int
    machine: str
    stable: bool
    reason: str
    kind: str
    details: LatencyResult = field(repr=False)

    def __str__(self) -> str:
        words = [
            f"p50 {self.p50_ms:.3g} ms (95 % interval {self.low_ms:.3g} to {self.high_ms:.3g})",
            f"p90 {self.p90_ms:.3g} ms",
            f"p99 {self.p99_ms:.3g} ms",
            f"{self.runs} runs",
            f"{self.threads} thread(s)",
        ]
        unsteady = "" if self.stable else f"; not stable: {self.reason}"
        kind = "" if self.kind == "measured" else f"; {self.kind}, not measured"
        return ", ".join(words) + kind + unsteady


def latency_of(found: LatencyResult) -> Latency:
    """A measurement in a few figures."""
    low, high = median_interval(found.samples_ms)
    summary = found.summary
    return Latency(
        p50_ms=summary.p50_ms,
        low_ms=low,
        high_ms=high,
        p90_ms=summary.p90_ms,
        p99_ms=summary.p99_ms,
        runs=len(found.samples_ms),
        threads=found.threads,
        machine=found.machine.cpu,
        stable=found.stable,
        reason=found.reason,
        kind=found.kind,
        details=found,
    )
