"""Gates on single classes and on a task's other figures: what a mean over many hides."""

from __future__ import annotations

from typing import Any

import pytest

from edgemtl.errors import ExitCode, UsageError
from edgemtl.gates.judge import GateFacts, GateOutcome, judge
from edgemtl.gates.limits import parse_limits
from edgemtl.tasks.base import MetricSpec

MANY = {f"class{index}": 1.0 for index in range(100)}
DEAD = MANY | {"class7": 0.0}
QUIET: dict[str, Any] = {"latency": {"ratio": False}, "cost": {"macs_ratio": False}}
QUIET["cost"]["size_ratio"] = False


def facts(
    before: dict[str, float | None], after: dict[str, float | None], **figures: float
) -> GateFacts:
    def mean(classes: dict[str, float | None]) -> float:
        known = [value for value in classes.values() if value is not None]
        return sum(known) / max(len(known), 1)

    return GateFacts(
        metrics={"parts": MetricSpec("miou", "mIoU", "higher")},
        accuracy_before={"parts": {"miou": mean(before)}},
        accuracy_after={"parts": {"miou": mean(after), **figures}},
        other_metrics={"parts": {"snr_db": MetricSpec("snr_db", "SNR", "higher", "dB")}},
        class_metrics={"parts": MetricSpec("iou", "IoU", "higher")},
        classes_before={"parts": before},
        classes_after={"parts": after},
    )


def judged(limits: dict[str, Any], found: GateFacts) -> dict[str, GateOutcome]:
    report = judge(parse_limits({"tasks": {"parts": limits}, **QUIET}), found)
    return {outcome.name.removeprefix("tasks.parts."): outcome for outcome in report.outcomes}


def test_a_class_that_died_among_a_hundred_is_told_even_where_the_mean_passes() -> None:
    outcome = judged({}, facts(MANY, DEAD))["max_relative_drop"]
    assert outcome.status == "pass" and outcome.measured == pytest.approx(0.01)
    assert outcome.detail == "mIoU 1 -> 0.99; lost: 'class7' 1 -> 0"


def test_a_limit_on_every_class_fails_for_the_worst() -> None:
    found = judged({"classes": {"min": 0.3, "max_relative_drop": 0.5}}, facts(MANY, DEAD))
    least = found["classes.min"]
    assert (least.status, least.measured, least.limit) == ("fail", 0.0, 0.3)
    assert least.detail == "IoU of 'class7' 1 -> 0, the worst of 100 classes"
    assert least.exit_code is ExitCode.ACCURACY_GATE
    drop = found["classes.max_relative_drop"]
    assert (drop.status, drop.measured) == ("fail", 1.0)
    kept = judged({"classes": {"min": 0.3, "max_relative_drop": 0.5}}, facts(MANY, MANY))
    assert all(outcome.status == "pass" for outcome in kept.values())


def test_others_below_the_limit_are_named() -> None:
    before = {"a": 0.8, "b": 0.8, "c": 0.8, "d": 0.8, "e": 0.8, "f": 0.8}
    after = {"a": 0.1, "b": 0.2, "c": 0.2, "d": 0.2, "e": 0.2, "f": 0.7}
    (outcome,) = (judged({"classes": {"min": 0.3}}, facts(before, after))["classes.min"],)
    assert outcome.detail.endswith("the worst of 6 classes; also 'b', 'c', 'd', ...")


def test_a_gate_may_name_one_class() -> None:
    limits = {"classes": {"named": {"class7": {"min": 0.5}, "class8": {"min": 0.5}}}}
    found = judged(limits, facts(MANY, DEAD))
    assert found["classes.named.class7.min"].status == "fail"
    assert found["classes.named.class7.min"].detail == "IoU of 'class7' 1 -> 0"
    assert found["classes.named.class8.min"].status == "pass"
    assert "classes.min" not in found


def test_classes_without_labels_do_not_count_and_a_named_one_is_not_measured() -> None:
    before, after = {"a": 0.8, "b": None}, {"a": 0.8, "b": None}
    limits = {"classes": {"min": 0.5, "named": {"b": {"min": 0.5}, "z": {"min": 0.5}}}}
    found = judged(limits, facts(before, after))
    assert found["classes.min"].status == "pass"
    assert found["classes.named.b.min"].status == "not-measured"
    assert "has no class 'z'" in found["classes.named.z.min"].detail


def test_a_figure_that_was_there_and_is_no_more_counts_as_nothing() -> None:
    found = judged({"classes": {"min": 0.5}}, facts({"a": 0.8, "b": 0.9}, {"a": None, "b": 0.9}))
    assert found["classes.min"].status == "fail" and found["classes.min"].measured == 0


def test_a_class_that_was_dead_before_cannot_drop() -> None:
    limits = {"classes": {"max_relative_drop": 0.1}}
    found = judged(limits, facts({"a": 0.0, "b": 0.5}, {"a": 0.0, "b": 0.5}))
    assert found["classes.max_relative_drop"].status == "pass"
    dead = judged(limits, facts({"a": 0.0}, {"a": 0.0}))["classes.max_relative_drop"]
    assert dead.status == "not-measured" and "or is 0, in the uncompressed" in dead.detail


def test_a_task_without_classes_is_not_measured() -> None:
    found = GateFacts(metrics={"parts": MetricSpec("rmse", "RMSE", "lower")})
    outcome = judged({"classes": {"min": 0.5}, "max_relative_drop": False}, found)["classes.min"]
    assert outcome.status == "not-measured" and "has no classes" in outcome.detail


def test_another_figure_has_limits_of_its_own() -> None:
    limits = {"figures": {"snr_db": {"min": 30}, "psnr": {"max": 1}}}
    found = judged(limits, facts(MANY, MANY, snr_db=25.0))
    outcome = found["figures.snr_db.min"]
    assert (outcome.status, outcome.measured, outcome.unit) == ("fail", 25.0, "dB")
    other = found["figures.psnr.max"]
    assert other.status == "not-measured" and "it has: miou, snr_db" in other.detail


def test_slips_are_refused() -> None:
    for limits in ({"classes": {"hair": {"min": 1}}}, {"classes": {"max": 1}}):
        with pytest.raises(UsageError, match="classes"):
            parse_limits({"tasks": {"parts": limits}})
