"""Verdicts: pass, fail, not measured, unstable; never a silent pass."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.errors import ExitCode, InputRefused
from edgemtl.gates.judge import GateFacts, GateOutcome, GateReport, judge
from edgemtl.gates.limits import parse_limits
from edgemtl.tasks.base import MetricSpec

AP = MetricSpec("ap", "AP", "higher")
MAE = MetricSpec("mae_deg", "pose MAE", "lower", "deg")


def latency(**changes: Any) -> dict[str, Any]:
    summary = {"p50_ms": 8.0, "p90_ms": 9.0, "p99_ms": 11.0}
    return {"kind": "measured", "stable": True, "reason": "", "summary": summary} | changes


def comparison(value: float, low: float, high: float, stable: bool = True) -> dict[str, Any]:
    speedup = {
        "value": value,
        "low": low,
        "high": high,
        "stable": stable,
        "reason": "" if stable else "too wide",
    }
    return {"speedup": speedup, "a": {"kind": "measured"}, "b": {"kind": "measured"}}


FACTS = GateFacts(
    metrics={"detection": AP, "pose": MAE},
    accuracy_before={"detection": {"ap": 0.8}, "pose": {"mae_deg": 5.0}},
    accuracy_after={"detection": {"ap": 0.79}, "pose": {"mae_deg": 5.05}},
    cost_before={"macs": 1000, "parameters": 100, "size_bytes": 4000},
    cost_after={"macs": 400, "parameters": 50, "size_bytes": 2000},
    latency=latency(),
    comparison=comparison(2.0, 1.9, 2.1),
)


def outcome(limits: dict[str, Any], facts: GateFacts, name: str) -> GateOutcome:
    report = judge(parse_limits(limits), facts)
    return next(found for found in report.outcomes if found.name == name)


def test_good_run_passes_every_default_gate() -> None:
    report = judge(parse_limits({}), FACTS)
    assert [found.name for found in report.outcomes] == [
        "tasks.detection.max_relative_drop",
        "tasks.pose.max_relative_drop",
        "latency.ratio",
        "cost.macs_ratio",
        "cost.size_ratio",
    ]
    assert report.passed
    assert report.exit_code() is ExitCode.OK


def test_drop_is_relative_and_follows_the_direction() -> None:
    drop = outcome({}, FACTS, "tasks.detection.max_relative_drop")
    assert drop.measured == pytest.approx(0.0125)
    drop = outcome({}, FACTS, "tasks.pose.max_relative_drop")
    assert drop.measured == pytest.approx(0.01)
    better = replace(FACTS, accuracy_after={"detection": {"ap": 0.9}, "pose": {"mae_deg": 4}})
    drop = outcome({}, better, "tasks.pose.max_relative_drop")
    assert drop.measured == pytest.approx(-0.2)
    assert drop.status == "pass"


def test_worse_task_fails_with_the_accuracy_code() -> None:
    worse = replace(FACTS, accuracy_after={"detection": {"ap": 0.79}, "pose": {"mae_deg": 5.2}})
    report = judge(parse_limits({}), worse)
    assert not report.passed
    assert report.exit_code() is ExitCode.ACCURACY_GATE
    assert outcome({}, worse, "tasks.detection.max_relative_drop").status == "pass"


def test_drop_of_exactly_the_limit_passes() -> None:
    exact = replace(
        FACTS,
        metrics={"detection": AP},
        accuracy_before={"detection": {"ap": 0.5}},
        accuracy_after={"detection": {"ap": 0.49}},
    )
    assert outcome({}, exact, "tasks.detection.max_relative_drop").status == "pass"


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_drop_gate_agrees_with_its_definition(before: float, after: float, limit: float) -> None:
    facts = GateFacts(
        metrics={"pose": MAE},
        accuracy_before={"pose": {"mae_deg": before}},
        accuracy_after={"pose": {"mae_deg": after}},
    )
    limits = {"tasks": {"pose": {"max_relative_drop": limit}}}
    status = outcome(limits, facts, "tasks.pose.max_relative_drop").status
    excess = after - before * (1 + limit)
    if abs(excess) > 1e-6 * before:
        assert status == ("fail" if excess > 0 else "pass")


def test_absolute_limits_of_a_task() -> None:
    limits = {"tasks": {"detection": {"min": 0.795}, "pose": {"max": 6, "min": 1}}}
    assert outcome(limits, FACTS, "tasks.detection.min").status == "fail"
    found = outcome(limits, FACTS, "tasks.pose.max")
    assert (found.status, found.unit) == ("pass", "deg")
    assert outcome(limits, FACTS, "tasks.pose.min").status == "pass"


def test_nothing_measured_is_never_a_pass() -> None:
    limits = {
        "tasks": {"pose": {"min": 0.0, "max": 1e9, "max_relative_drop": 1e9}},
        "latency": {"p50_ms": 1e9, "p90_ms": 1e9, "p99_ms": 1e9, "ratio": 1e9},
        "cost": {
            "macs_ratio": 1e9,
            "parameters_ratio": 1e9,
            "size_ratio": 1e9,
            "size_bytes": 1e12,
        },
    }
    report = judge(parse_limits(limits), GateFacts(metrics={"pose": MAE}))
    assert len(report.outcomes) == 11
    assert {found.status for found in report.outcomes} == {"not-measured"}
    assert {found.measured for found in report.outcomes} == {None}
    assert report.exit_code() is ExitCode.UNAVAILABLE


def test_limits_of_a_task_that_the_network_does_not_have() -> None:
    found = outcome({"tasks": {"depth": {}}}, FACTS, "tasks.depth.max_relative_drop")
    assert found.status == "not-measured"
    assert "no task 'depth'" in found.detail


def test_unmeasured_reference_gives_the_reason() -> None:
    facts = replace(
        FACTS,
        accuracy_before={"detection": {"ap": 0.8}, "pose": {"mae_deg": None}},
        accuracy_after={"detection": {"ap": 0.8}, "pose": {"mae_deg": None}},
        notes={"pose": "no face with labelled pose"},
    )
    found = outcome({}, facts, "tasks.pose.max_relative_drop")
    assert found.status == "not-measured"
    assert "no face with labelled pose" in found.detail


def test_task_that_stopped_working_fails_even_when_unmeasured_is_allowed() -> None:
    facts = replace(
        FACTS,
        accuracy_after={"detection": {"ap": 0.8}, "pose": {"mae_deg": None}},
        notes={"pose": "no labelled face was found"},
    )
    limits = {"allow_not_measured": ["tasks.pose"], "tasks": {"pose": {"max": 9}}}
    for key in ("max_relative_drop", "max"):
        found = outcome(limits, facts, f"tasks.pose.{key}")
        assert found.status == "fail"
        assert not found.ok


@pytest.mark.parametrize(
    ("metric", "after", "status"),
    [
        (AP, 0.0, "not-measured"),
        (AP, 0.5, "not-measured"),
        (MAE, 0.0, "pass"),
        (MAE, 0.5, "fail"),
    ],
)
def test_reference_of_zero(metric: MetricSpec, after: float, status: str) -> None:
    facts = GateFacts(
        metrics={"t": metric},
        accuracy_before={"t": {metric.key: 0.0}},
        accuracy_after={"t": {metric.key: after}},
    )
    assert outcome({}, facts, "tasks.t.max_relative_drop").status == status


def test_nan_is_not_a_measurement() -> None:
    facts = replace(FACTS, accuracy_before={"pose": {"mae_deg": float("nan")}})
    assert outcome({}, facts, "tasks.pose.max_relative_drop").status == "not-measured"


def test_allowed_by_name() -> None:
    facts = replace(FACTS, comparison=None)
    assert judge(parse_limits({}), facts).exit_code() is ExitCode.UNAVAILABLE
    report = judge(parse_limits({"allow_not_measured": ["latency.ratio"]}), facts)
    assert report.passed
    assert report.exit_code() is ExitCode.OK
    found = next(o for o in report.outcomes if o.name == "latency.ratio")
    assert (found.status, found.allowed) == ("not-measured", True)


def test_allowance_excuses_no_failure() -> None:
    facts = replace(FACTS, cost_after={"macs": 2000, "size_bytes": 1})
    report = judge(parse_limits({"allow_not_measured": ["cost"]}), facts)
    assert report.exit_code() is ExitCode.COST_GATE


def test_absolute_latency() -> None:
    limits = {"latency": {"p50_ms": 8.0, "p99_ms": 10.0}}
    assert outcome(limits, FACTS, "latency.p50_ms").status == "pass"
    found = outcome(limits, FACTS, "latency.p99_ms")
    assert (found.status, found.measured, found.unit) == ("fail", 11.0, "ms")


def test_unstable_latency_is_neither_pass_nor_fail() -> None:
    facts = replace(FACTS, latency=latency(stable=False, reason="parts lie 40 % apart"))
    report = judge(parse_limits({"latency": {"p50_ms": 1e6}}), facts)
    assert report.exit_code() is ExitCode.UNSTABLE
    found = outcome({"latency": {"p50_ms": 1e6}}, facts, "latency.p50_ms")
    assert (found.status, found.detail) == ("unstable", "parts lie 40 % apart")


@pytest.mark.parametrize("kind", ["modelled", "emulated", "proxied"])
def test_latency_that_was_not_measured_never_passes(kind: str) -> None:
    sides = comparison(2, 1.9, 2.1) | {"a": {"kind": kind}}
    facts = replace(FACTS, latency=latency(kind=kind), comparison=sides)
    limits = {"latency": {"p50_ms": 1e6}}
    for name in ("latency.p50_ms", "latency.ratio"):
        found = outcome(limits, facts, name)
        assert found.status == "not-measured"
        assert kind in found.detail


def test_ratio_is_the_inverse_of_the_speedup() -> None:
    found = outcome({}, FACTS, "latency.ratio")
    assert found.measured == pytest.approx(0.5)
    assert "0.476 to 0.526" in found.detail
    slower = replace(FACTS, comparison=comparison(0.8, 0.78, 0.82))
    assert outcome({}, slower, "latency.ratio").status == "fail"


@pytest.mark.parametrize(
    ("speedup", "status"),
    [
        (comparison(3, 2, 5, stable=False), "pass"),  # all of it below the limit
        (comparison(0.5, 0.3, 0.8, stable=False), "fail"),  # all of it above
        (comparison(1.0, 0.7, 1.4, stable=False), "unstable"),  # says nothing
        (comparison(1.0, 0.9, 1.1), "pass"),  # narrow: the point decides
        (comparison(0.94, 0.9, 1.0), "fail"),
    ],
)
def test_wide_interval_decides_only_when_it_lies_on_one_side(
    speedup: dict[str, Any], status: str
) -> None:
    assert outcome({}, replace(FACTS, comparison=speedup), "latency.ratio").status == status


def test_cost_limits() -> None:
    limits = {"cost": {"flops_ratio": 0.3, "parameters_ratio": 0.5, "size_bytes": 1000}}
    found = outcome(limits, FACTS, "cost.macs_ratio")
    assert (found.status, found.measured, found.limit) == ("fail", 0.4, 0.3)
    assert outcome(limits, FACTS, "cost.parameters_ratio").status == "pass"
    found = outcome(limits, FACTS, "cost.size_bytes")
    assert (found.status, found.unit) == ("fail", "B")
    assert judge(parse_limits(limits), FACTS).exit_code() is ExitCode.COST_GATE


def test_accuracy_is_more_serious_than_cost() -> None:
    facts = replace(
        FACTS,
        accuracy_after={"detection": {"ap": 0.1}, "pose": {"mae_deg": 5}},
        cost_after={"macs": 9999, "size_bytes": 9999},
        latency=None,
    )
    limits = parse_limits({"latency": {"p50_ms": 1}})
    assert judge(limits, facts).exit_code() is ExitCode.ACCURACY_GATE


def test_report_survives_json_and_its_verdict_is_not_believed() -> None:
    worse = replace(FACTS, accuracy_after={"detection": {"ap": 0.1}})
    report = judge(parse_limits({}), worse)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert GateReport.from_dict(data) == report
    assert data["exit_code"] == 6
    data["passed"], data["exit_code"] = True, 0
    assert not GateReport.from_dict(data).passed
    data["outcomes"][0]["status"] = "fine"
    with pytest.raises(InputRefused):
        GateReport.from_dict(data)
