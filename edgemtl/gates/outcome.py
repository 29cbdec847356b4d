"""What gates judge, and what they say: plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgemtl.errors import ExitCode, InputRefused, most_serious
from edgemtl.tasks.base import MetricSpec

Status = Literal["pass", "fail", "not-measured", "unstable"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "not-measured", "unstable")
Figures = Mapping[str, float | None]

#: room for the last bit: 0.50 -> 0.49 is a drop of 0.020000000000000018
ROUNDING = 1e-9


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
        other_metrics: task -> its other figures, by their keys.
        class_metrics: task -> the figure of each of its classes, where it has classes.
        classes_before: task -> class -> figure of the uncompressed network, None for a class
            without labels.
        classes_after: the same of what is judged.
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
    other_metrics: Mapping[str, Mapping[str, MetricSpec]] = field(default_factory=dict)
    class_metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    classes_before: Mapping[str, Figures] = field(default_factory=dict)
    classes_after: Mapping[str, Figures] = field(default_factory=dict)


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


def number(figures: Figures | None, key: str) -> float | None:
    """A figure that is finite; None where there is none."""
    value = None if figures is None else figures.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def at_most(
    name: str, measured: float, limit: float, unit: str = "", detail: str = ""
) -> GateOutcome:
    """A gate on a figure of which less is better."""
    good = measured <= limit + ROUNDING * max(1.0, abs(limit))
    return GateOutcome(name, "pass" if good else "fail", measured, limit, unit, detail)
