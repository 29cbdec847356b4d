"""Kinds by name, task descriptions from untrusted files, selection, relative drops."""

from __future__ import annotations

import math

import pytest

from edgemtl.errors import InputRefused, UsageError
from edgemtl.tasks import (
    Depth,
    Detection,
    HeadPose,
    Landmarks,
    MetricSpec,
    Segmentation,
    Task,
    TaskSpec,
    build,
    kinds,
    select,
    spec_from_dict,
)
from edgemtl.tasks.anchors import AnchorSpec

ANCHORS = AnchorSpec().to_dict()
TASKS: list[Task] = [
    Detection("detection", ANCHORS, negatives_per_positive=3),
    Landmarks("landmarks", ANCHORS),
    HeadPose("pose", ANCHORS, regression_weight=0.5),
    Segmentation("parts", ["a", "b"]),
    Depth("distance"),
]


def test_all_kinds_are_known() -> None:
    assert {"detection", "landmarks", "pose", "segmentation", "depth"} <= set(kinds())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_survives_its_description(task: Task) -> None:
    again = build(spec_from_dict(task.spec().to_dict()))
    assert type(again) is type(task)
    assert again.spec() == task.spec() and again.outputs == task.outputs
    assert again.primary.key and again.label_kind


@pytest.mark.parametrize(
    "data",
    [None, 5, "detection", [], {}, {"name": "x"}, {"name": 1, "kind": "depth"},
     {"name": "x", "kind": 2}, {"name": "x", "kind": "depth", "options": [1]}],
)  # fmt: skip
def test_unreadable_descriptions_are_refused(data: object) -> None:
    with pytest.raises(InputRefused, match="task description"):
        spec_from_dict(data)  # type: ignore[arg-type]


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(InputRefused, match=r"unknown kind 'smell'.*detection"):
        build(TaskSpec("x", "smell"))


@pytest.mark.parametrize(
    "options",
    [{}, {"anchors": 3}, {"anchors": {}}, {"anchors": ANCHORS, "colour": 1},
     {"anchors": {**ANCHORS, "strides": [float("inf"), 1, 2]}},
     {"anchors": {**ANCHORS, "sizes": [[], [], []]}},
     {"anchors": ANCHORS, "negatives_per_positive": "many"}],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputRefused, match="task 'x' of kind 'detection' has options"):
        build(TaskSpec("x", "detection", options))


def test_selection_brings_required_tasks_in_the_networks_order() -> None:
    def names(wanted: list[str] | None) -> list[str]:
        return [task.name for task in select(TASKS, wanted)]

    assert names(None) == [task.name for task in TASKS]
    assert names(["pose"]) == ["detection", "pose"]
    assert names(["distance", "landmarks"]) == ["detection", "landmarks", "distance"]
    assert names(["pose", "pose", "detection"]) == ["detection", "pose"]
    assert names([]) == []
    with pytest.raises(UsageError, match=r"no task 'gaze'.*detection, landmarks"):
        names(["detection", "gaze"])


def test_relative_drop_is_positive_when_worse() -> None:
    higher, lower = MetricSpec("a", "a", "higher"), MetricSpec("e", "e", "lower")
    assert higher.relative_drop(0.8, 0.6) == pytest.approx(0.25)
    assert higher.relative_drop(0.8, 1.0) == pytest.approx(-0.25)
    assert lower.relative_drop(4.0, 5.0) == pytest.approx(0.25)
    assert lower.relative_drop(4.0, 4.0) == 0


def test_relative_drop_cannot_be_passed_without_a_reference_or_with_nan() -> None:
    higher = MetricSpec("a", "a", "higher")
    assert higher.relative_drop(0.0, 0.0) == 0.0
    assert MetricSpec("e", "e", "lower").relative_drop(0.0, 1e-9) == math.inf
    assert higher.relative_drop(0.8, math.nan) == math.inf
    assert higher.relative_drop(math.nan, 0.8) == math.inf
