"""What changed against a baseline, and which changes are failures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import junitparser
import numpy as np
import pytest

from edgemtl.errors import ExitCode, InputRefused, UsageError
from edgemtl.gates import history
from edgemtl.gates.junit import bencher_metrics, github_annotations, write_junit
from edgemtl.gates.limits import GateLimits, parse_limits
from edgemtl.gates.regression import Change, RegressionReport, compare
from edgemtl.gates.snapshot import (
    MOST_SAMPLES,
    LatencySamples,
    Snapshot,
    TaskFigure,
    thinned,
)


def timings(median_ms: float, count: int = 400, seed: int = 0, noise: float = 0.02) -> Any:
    rng = np.random.default_rng(seed)
    return tuple(float(v) for v in median_ms * (1 + noise * np.abs(rng.standard_normal(count))))


def latency(median_ms: float, **changes: Any) -> LatencySamples:
    return replace(LatencySamples(timings(median_ms), "a CPU", 1), **changes)


def snapshot(**changes: Any) -> Snapshot:
    return replace(
        Snapshot(
            "net for cpu",
            {
                "pose": {
                    "mae_deg": TaskFigure(5.0, "lower", "pose error", "deg", True),
                    "yaw": TaskFigure(4.0, "lower", "yaw error", "deg"),
                },
                "detection": {"ap": TaskFigure(0.8, "higher", "AP", "", True)},
            },
            "faces/val",
            120,
            {"macs": 1e9, "parameters": 2e6, "size_bytes": 8e6},
            latency(10.0),
            {"model_sha256": "ab"},
        ),
        **changes,
    )


def with_figure(task: str, key: str, value: float | None) -> Snapshot:
    base = snapshot()
    rows = {**base.tasks[task], key: replace(base.tasks[task][key], value=value)}
    return replace(base, tasks={**base.tasks, task: rows})


def found(report: RegressionReport, name: str) -> Change:
    (change,) = [c for c in report.changes if c.name == f"regression.{name}"]
    return change


def judged(before: Snapshot, after: Snapshot, **limits: Any) -> RegressionReport:
    return compare(before, after, parse_limits({"regression": limits}))


def test_the_same_run_passes_everything() -> None:
    report = judged(snapshot(), snapshot())
    assert report.passed and report.exit_code() == ExitCode.OK
    assert found(report, "tasks.pose.mae_deg").status == "pass"
    assert found(report, "tasks.pose.yaw").status == "reported"  # a secondary figure
    assert found(report, "latency.p50_ms").change == 0
    assert [c.name.split(".")[1] for c in report.changes] == (
        ["tasks"] * 3 + ["cost"] * 3 + ["latency"] * 2
    )


@pytest.mark.parametrize(
    ("task", "key", "value", "status"),
    [
        ("pose", "mae_deg", 5.04, "pass"),
        ("pose", "mae_deg", 5.06, "fail"),
        ("pose", "mae_deg", 4.5, "improved"),
        ("detection", "ap", 0.793, "pass"),
        ("detection", "ap", 0.79, "fail"),
        ("detection", "ap", 0.9, "improved"),
        ("detection", "ap", None, "missing"),
    ],
)
def test_a_primary_figure_may_get_a_little_worse(
    task: str, key: str, value: float | None, status: str
) -> None:
    report = judged(snapshot(), with_figure(task, key, value))
    assert found(report, f"tasks.{task}.{key}").status == status
    codes = {"fail": ExitCode.ACCURACY_GATE, "missing": ExitCode.UNAVAILABLE}
    assert report.exit_code() == codes.get(status, ExitCode.OK)


def test_a_task_can_have_a_limit_of_its_own_and_one_can_be_switched_off() -> None:
    worse = with_figure("pose", "mae_deg", 5.4)
    assert judged(snapshot(), worse, tasks={"pose": "10%"}).passed
    assert not judged(snapshot(), worse, tasks={"pose": 0.05}).passed
    off = judged(snapshot(), worse, tasks={"pose": False})
    assert off.passed and found(off, "tasks.pose.mae_deg").status == "reported"


def test_cost_is_counted_and_needs_no_room() -> None:
    more = snapshot(cost={"macs": 1.02e9, "parameters": 2e6, "size_bytes": 7e6})
    report = judged(snapshot(), more)
    assert found(report, "cost.macs").status == "fail"
    assert found(report, "cost.size_bytes").status == "improved"
    assert report.exit_code() == ExitCode.COST_GATE
    assert judged(snapshot(), more, max_cost=0.05).passed


def test_new_and_missing_figures_have_names_of_their_own() -> None:
    old = snapshot(cost={"macs": 1e9}, latency=None)
    new = snapshot(cost={"parameters": 2e6})
    report = judged(old, new)
    assert found(report, "cost.parameters").status == "new"
    assert found(report, "latency.p50_ms").status == "new"
    missing = found(report, "cost.macs")
    assert missing.status == "missing" and "baseline" in missing.detail
    assert report.exit_code() == ExitCode.UNAVAILABLE
    allowed = parse_limits({"allow_not_measured": ["regression.cost"]})
    assert compare(old, new, allowed).passed


def test_accuracy_on_other_data_is_unknown_not_worse() -> None:
    for other in (snapshot(data="faces/test"), snapshot(images=60)):
        report = judged(snapshot(), other)
        change = found(report, "tasks.detection.ap")
        assert change.status == "unknown" and "other data" in change.detail
        assert report.exit_code() == ExitCode.UNAVAILABLE


def test_a_baseline_of_zero_has_no_share() -> None:
    zero = with_figure("pose", "mae_deg", 0.0)
    assert found(judged(zero, zero), "tasks.pose.mae_deg").status == "pass"
    worse = found(judged(zero, snapshot()), "tasks.pose.mae_deg")
    assert worse.status == "fail" and worse.change is None


def test_a_slower_run_fails_only_beyond_limit_and_noise() -> None:
    slower = judged(snapshot(), snapshot(latency=latency(11.0)))
    change = found(slower, "latency.p50_ms")
    assert change.status == "fail"
    assert change.low is not None and change.low > 0 and change.change == pytest.approx(0.1)
    assert slower.exit_code() == ExitCode.COST_GATE
    assert found(judged(snapshot(), snapshot(latency=latency(10.3))), "latency.p50_ms").ok
    faster = found(judged(snapshot(), snapshot(latency=latency(8.0))), "latency.p50_ms")
    assert faster.status == "improved"


def test_a_difference_within_the_noise_is_no_failure() -> None:
    rng = np.random.default_rng(3)

    def moody(slow_blocks: int) -> Snapshot:
        # A machine with two moods: which of them the median shows is a matter of luck.
        moods = [13.0] * slow_blocks + [10.0] * (20 - slow_blocks)
        rng.shuffle(moods)
        samples = tuple(mood + 0.1 * rng.random() for mood in moods for _ in range(10))
        return snapshot(latency=latency(1.0, samples_ms=samples))

    change = found(judged(moody(8), moody(12)), "latency.p50_ms")
    assert change.change is not None and change.change > 0.2
    assert change.low is not None and change.low < 0
    assert change.status == "pass" and "within the noise" in change.detail


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"machine": "another CPU"}, "unknown", "another machine"),
        ({"threads": 2}, "unknown", "threads"),
        ({"kind": "emulated"}, "unknown", "emulated"),
        ({"stable": False, "reason": "it drifted"}, "unstable", "it drifted"),
    ],
)
def test_timings_that_cannot_be_compared_are_named(
    changes: dict[str, Any], status: str, words: str
) -> None:
    report = judged(snapshot(), snapshot(latency=latency(20.0, **changes)))
    change = found(report, "latency.p50_ms")
    assert change.status == status and words in change.detail
    code = ExitCode.UNSTABLE if status == "unstable" else ExitCode.UNAVAILABLE
    assert report.exit_code() == code
    only_reported = {"max_latency": False, "max_p99": False}
    assert judged(snapshot(), snapshot(latency=latency(20.0, **changes)), **only_reported).passed


def test_few_runs_have_no_99th_percentile() -> None:
    few = snapshot(latency=latency(10.0, samples_ms=timings(10.0, 50)))
    report = judged(few, few)
    assert found(report, "latency.p50_ms").status == "pass"
    assert "too few" in found(report, "latency.p99_ms").detail


def test_without_limits_nothing_is_judged() -> None:
    report = compare(snapshot(), snapshot(cost={"macs": 9e9}))
    assert report.passed
    assert {c.status for c in report.changes} == {"reported", "missing"}


def test_limits_are_shares_percents_or_off() -> None:
    limits = parse_limits({"regression": {"max_latency": "5%", "max_p99": False}}).regression
    assert (limits.max_latency, limits.max_p99) == (0.05, None)
    for wrong in (True, "much", "x%", -0.1, math.inf):
        with pytest.raises(UsageError, match="max_latency"):
            parse_limits({"regression": {"max_latency": wrong}})
    written = parse_limits({"regression": {"max_drop": False, "tasks": {"pose": False}}})
    plain = written.model_dump(mode="json", exclude_none=True)
    assert plain["regression"]["max_drop"] is False
    assert GateLimits.model_validate(plain) == written


# --- what is written --------------------------------------------------------------------------


def test_a_snapshot_survives_being_written() -> None:
    text = json.dumps(snapshot().to_dict(), allow_nan=False)
    back = Snapshot.from_dict(json.loads(text), "b.json")
    assert back.tasks == snapshot().tasks and back.cost == snapshot().cost
    assert back.latency is not None
    assert back.latency.samples_ms == pytest.approx(latency(10.0).samples_ms, abs=1e-4)
    assert judged(back, snapshot()).passed
    bare = Snapshot("nothing")
    assert Snapshot.from_dict(bare.to_dict(), "b.json") == bare


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.update(version=99),
        lambda d: d.pop("tasks"),
        lambda d: d.update(tasks=[]),
        lambda d: d["tasks"]["pose"]["mae_deg"].update(direction="sideways"),
        lambda d: d["tasks"]["pose"]["mae_deg"].update(value=math.nan),
        lambda d: d["cost"].update(macs="many"),
        lambda d: d["cost"].update(macs=True),
        lambda d: d["latency"].update(samples_ms=[]),
        lambda d: d["latency"].update(samples_ms=[-1]),
        lambda d: d["latency"].update(threads="two"),
        lambda d: d.update(images="some"),
    ],
)
def test_a_baseline_that_is_none_is_refused(change: Any) -> None:
    data = json.loads(json.dumps(snapshot().to_dict()))
    change(data)
    with pytest.raises(InputRefused, match=r"b\.json"):
        Snapshot.from_dict(data, "b.json")


def test_long_runs_are_thinned_evenly() -> None:
    assert thinned([1.0, 2.0]) == (1.0, 2.0)
    thin = thinned([float(v) for v in range(5 * MOST_SAMPLES)])
    assert len(thin) == MOST_SAMPLES and thin[:3] == (0.0, 5.0, 10.0)


def test_junit_annotations_and_bencher(tmp_path: Path) -> None:
    worse = replace(with_figure("pose", "mae_deg", 6.0), cost={"macs": 1e9})
    report = judged(snapshot(), worse)
    write_junit(None, tmp_path / "j.xml", regression=report)
    (suite,) = junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))
    assert suite.name == "edgemtl regression"
    kinds = {case.name: [type(r).__name__ for r in case.result] for case in suite}
    assert kinds["regression.tasks.pose.mae_deg"] == ["Failure"]
    assert kinds["regression.tasks.pose.yaw"] == ["Skipped"]
    assert kinds["regression.cost.parameters"] == ["Error"]
    assert kinds["regression.cost.macs"] == []

    lines = github_annotations(None, report)
    assert any(
        line.startswith(
            "::error title=regression tasks.pose.mae_deg::fail: 5 deg -> 6 deg, 20.00%25"
        )
        for line in lines
    )
    assert not any("yaw" in line for line in lines)

    metrics = bencher_metrics(snapshot())["net for cpu"]
    assert metrics["detection-ap"] == {"value": 0.8}
    assert metrics["latency"]["value"] == pytest.approx(10e6, rel=0.05)
    assert metrics["latency"]["lower_value"] <= metrics["latency"]["value"]


# --- the trend ----------------------------------------------------------------------------------


def test_history_grows_by_lines(tmp_path: Path) -> None:
    path = tmp_path / "trend.jsonl"
    for label in ("one", "two"):
        history.append(path, history.entry_of(snapshot(), label, "2026-01-02T03:04:05+00:00"))
    assert len(path.read_text("utf-8").splitlines()) == 2
    entries = history.read(path)
    assert [entry.label for entry in entries] == ["one", "two"]
    assert entries[0].figures["tasks.pose.mae_deg"] == 5.0
    assert "tasks.pose.yaw" not in entries[0].figures
    assert entries[0].units["latency.p50_ms"] == "ms"
    moved = snapshot(latency=latency(10.0, stable=False))
    assert "latency.p50_ms" not in history.entry_of(moved, "", "").figures


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"time_utc": 1}', "null", "x" * 99])
def test_a_history_that_is_none_stays_as_it_is(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trend.jsonl"
    path.write_text(line + "\n", "utf-8")
    with pytest.raises(InputRefused, match=r"trend\.jsonl:1"):
        history.append(path, history.entry_of(snapshot(), "", ""))
    assert path.read_text("utf-8") == line + "\n"
    with pytest.raises(InputRefused, match="no such history"):
        history.read(tmp_path / "absent.jsonl")
