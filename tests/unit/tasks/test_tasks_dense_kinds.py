"""Saliency, edges, normals and parts: losses, decoding and metrics by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Sample
from edgemtl.tasks import Edges, Normals, Parts, Saliency, Task, build
from edgemtl.tasks.base import MetricResult
from edgemtl.tasks.edges import matched

IMAGE = np.zeros((1, 1, 3), np.uint8)
TASKS: list[Task] = [Saliency("a"), Edges("a"), Normals("a"), Parts("a", ("x", "y"))]
CANVAS = (8, 12)


def judged(task: Task, *images: tuple[Any, Any]) -> MetricResult:
    metric = task.new_metric()
    for label, answer in images:
        sample = Sample("x", IMAGE, {task.label_kind: np.array(label)})
        metric.update({task.name: np.array(answer)}, sample)
    return metric.result()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_kinds_are_rebuilt_from_their_specification(task: Task) -> None:
    again = build(task.spec())
    assert type(again) is type(task) and again.spec() == task.spec()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_nothing_labelled_costs_nothing_and_measures_nothing(task: Task) -> None:
    channels = {"normals": 3, "parts": 2}.get(task.kind, 1)
    logits = torch.randn((2, channels, 4, 6), requires_grad=True)
    loss = task.loss({task.outputs[0]: logits}, task.collate([None, None], CANVAS))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.abs().sum() == 0
    result = task.new_metric().result()
    assert result.values[task.primary.key] is None and result.note


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_other_labels_are_not_looked_at(task: Task) -> None:
    metric = task.new_metric()
    metric.update({"a": np.zeros((2, 2))}, Sample("x", IMAGE, {"other": np.zeros((2, 2))}))
    assert metric.result().count == 0


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_decoding_drawing_and_describing(task: Task) -> None:
    _, view = letterbox(np.zeros((30, 50, 3), np.uint8), InputSpec((32, 64)))
    channels = {"normals": 3, "parts": 2}.get(task.kind, 1)
    output = np.random.default_rng(0).normal(size=(channels, 16, 32)).astype(np.float32)
    decoded = task.decode({task.outputs[0]: output}, view, {})
    assert decoded.shape[:2] == (30, 50)
    drawn = task.draw(np.full((30, 50, 3), 99, np.uint8), {"a": decoded})
    assert drawn.shape == (30, 50, 3) and drawn.dtype == np.uint8
    assert task.describe({"a": decoded})


def test_saliency_loss_balances_by_the_share_of_the_other_kind() -> None:
    label = np.full((2, 4), 0)
    label[0, 0], label[1, 3] = 1, -1  # one of seven labelled is salient
    logits = torch.randn((1, 1, 2, 4), generator=torch.Generator().manual_seed(0))
    task = Saliency("s")
    loss = task.loss({"s.logits": logits}, task.collate([label], (2, 4)))
    p = logits[0, 0].sigmoid()
    wanted = -(6 / 7) * p[0, 0].log()
    wanted = wanted - (1 / 7) * (1 - p[torch.from_numpy(label == 0)]).log().sum()
    assert loss.item() == pytest.approx(wanted.item() / 7, rel=1e-5)


def test_edge_loss_weighs_edges_nineteen_times() -> None:
    task = Edges("e")
    logits = torch.zeros((1, 1, 1, 2))
    loss = task.loss({"e.logits": logits}, task.collate([np.array([[1, 0]])], (1, 2)))
    assert loss.item() == pytest.approx((0.95 + 0.05) * math.log(2) / 2)


def test_normals_loss_is_about_direction_only() -> None:
    task = Normals("n")
    label = np.full((1, 3, 3), np.nan, np.float32)
    label[0, 0], label[0, 1] = (0, 0, 1), (0.6, 0, 0.8)
    targets = task.collate([label], (1, 3))
    answer = (
        torch.tensor([[0.0, 0.0, 5.0], [0.0, 2.0, 0.0], [1.0, 1.0, 1.0]]).t().reshape(1, 3, 1, 3)
    )
    answer.requires_grad_()
    loss = task.loss({"n.normals": answer}, targets)
    assert loss.item() == pytest.approx((0.6 + 1 + 0.8) / 6)
    loss.backward()
    assert answer.grad is not None and answer.grad.isfinite().all()
    assert answer.grad[..., 2].abs().sum() == 0
    unit = F.normalize(answer.detach() * 3, dim=1)
    assert task.loss({"n.normals": unit}, targets).item() == pytest.approx(loss.item())


def test_max_f_by_hand() -> None:
    label = [[1, 1, 0, 0, -1]]
    answer = [[0.9, 0.4, 0.4, 0.1, 1.0]]
    # above 0.4 one of two is found and nothing else; up to 0.4 both, with one too many
    strict = 1.3 * 1 * 0.5 / (0.3 * 1 + 0.5)
    loose = 1.3 * (2 / 3) * 1 / (0.3 * (2 / 3) + 1)
    result = judged(Saliency("a"), (label, answer))
    assert result.values["max_f"] == pytest.approx(max(strict, loose)) and result.count == 1
    assert judged(Saliency("a"), (label, label)).values["max_f"] == pytest.approx(1)


def test_images_without_anything_salient_are_left_out() -> None:
    result = judged(Saliency("a"), ([[1, 0]], [[1.0, 0.0]]), ([[0, 0]], [[1.0, 1.0]]))
    assert result.values["max_f"] == pytest.approx(1) and result.count == 1


def line(row: int, start: int = 5, end: int = 95) -> NDArray[np.int64]:
    mask = np.zeros((60, 100), np.int64)
    mask[row, start:end] = 1
    return mask


def test_edges_may_lie_within_the_tolerance() -> None:
    """0.0075 of a diagonal of 116.6 is 0.87 pixels: the same row counts, the next does not."""
    task = Edges("a")
    assert judged(task, (line(30), line(30).astype(np.float32))).values["ods_f"] == pytest.approx(
        1, abs=0.02
    )
    assert judged(task, (line(30), line(31).astype(np.float32))).values["ods_f"] == 0


def test_ods_by_hand() -> None:
    """Half of the line at 0.9, all of it and a false one at 0.3: the best threshold is chosen."""
    answer = line(30, 5, 50) * 0.9 + line(30, 50, 95) * 0.3 + line(10) * 0.3
    found = judged(Edges("a"), (line(30), answer)).values["ods_f"]
    # strict: 45 of 90 found, nothing wrong; loose: 90 of 90, 90 wrong; both have F = 2/3
    assert found == pytest.approx(2 / 3, abs=0.02)


def test_thick_answers_are_thinned_before_they_are_counted() -> None:
    thick = sum(line(row) for row in range(28, 33))
    found = judged(Edges("a"), (line(30), np.asarray(thick, np.float32))).values["ods_f"]
    assert found is not None and found > 0.9


def test_answers_where_nothing_is_labelled_cost_nothing() -> None:
    label = line(30)
    label[:20] = -1
    answer = (line(30) + line(10)).astype(np.float32)
    assert judged(Edges("a"), (label, answer)).values["ods_f"] == pytest.approx(1, abs=0.02)


def test_pairs_are_one_to_one_and_as_many_as_possible() -> None:
    truth, answer = np.zeros((5, 9), np.bool_), np.zeros((5, 9), np.bool_)
    truth[2, [2, 4]] = True
    answer[2, [3, 5]] = True  # 3 is near both; 5 only near 4
    assert matched(answer, truth, 1.0) == 2
    answer[2, 5] = False
    assert matched(answer, truth, 1.0) == 1
    assert matched(answer, truth, 0.5) == 0
    assert matched(answer & False, truth, 1.0) == 0


@pytest.mark.parametrize("angle", [0.0, 1e-4, 30.0, 90.0, 179.0])
def test_angle_between_vectors(angle: float) -> None:
    turned = [0.0, math.sin(math.radians(angle)), math.cos(math.radians(angle))]
    result = judged(Normals("a"), ([[[0.0, 0.0, 1.0]]], [[turned]]))
    assert result.values["mean_error_deg"] == pytest.approx(angle, abs=1e-6)
    assert result.values["median_error_deg"] == pytest.approx(angle, abs=0.006)


def test_an_answer_without_direction_is_ninety_degrees_off() -> None:
    result = judged(Normals("a"), ([[[0.0, 0.0, 1.0]]], [[[0.0, 0.0, 0.0]]]))
    assert result.values["mean_error_deg"] == 90


@pytest.mark.parametrize("task", TASKS[:3], ids=lambda task: task.kind)
def test_nan_is_told(task: Task) -> None:
    label = np.array([[[0.0, 0.0, 1.0]]]) if task.kind == "normals" else np.array([[1]])
    result = judged(task, (label, np.full(label.shape, np.nan)))
    assert result.values[task.primary.key] is None and "NaN" in result.note


def test_parts_have_labels_of_their_own() -> None:
    result = judged(Parts("a", ("x", "y")), ([[0, 1]], [[0, 1]]))
    assert result.values["miou"] == 1
