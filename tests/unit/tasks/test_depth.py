"""Depth: missing pixels, coarse outputs, errors by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Sample
from edgemtl.tasks import Depth, build
from edgemtl.tasks.base import MetricResult

TASK = Depth("distance")
CANVAS = (8, 12)
NAN = float("nan")


def evaluate(*images: tuple[list[float], list[float]]) -> MetricResult:
    metric = TASK.new_metric()
    for label, answer in images:
        labels = {"depth": np.array([label], np.float32)}
        sample = Sample("x", np.zeros((1, 1, 3), np.uint8), labels)
        metric.update({"distance": np.array([answer], np.float32)}, sample)
    return metric.result()


def test_loss_is_the_mean_over_labelled_pixels() -> None:
    depth = torch.full((3, 1, *CANVAS), 2.0, requires_grad=True)
    label = np.full(CANVAS, np.nan, np.float32)
    label[1, 2], label[3, 4], label[5, 6] = 1.5, 4.0, 0.0
    targets = TASK.collate([label, None, np.zeros(CANVAS, np.float32)], CANVAS)
    loss = TASK.loss({"distance.depth": depth}, targets)
    assert loss.item() == pytest.approx((0.5 + 2.0) / 2)
    loss.backward()
    assert depth.grad is not None
    assert torch.nonzero(depth.grad).tolist() == [[0, 0, 1, 2], [0, 0, 3, 4]]


def test_nothing_labelled_costs_nothing() -> None:
    depth = torch.ones((2, 1, 4, 6), requires_grad=True)
    targets = TASK.collate([None, np.full(CANVAS, np.nan, np.float32)], CANVAS)
    loss = TASK.loss({"distance.depth": depth}, targets)
    loss.backward()
    assert loss.item() == 0 and depth.grad is not None and depth.grad.abs().sum() == 0


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_ramp_survives_canvas_and_stride(stride: int) -> None:
    """A plane that grows along x and y: bilinear resampling is exact away from the border."""
    _, view = letterbox(np.zeros((60, 150, 3), np.uint8), InputSpec((64, 96)))
    x = (np.arange(96 // stride) + 0.5) * stride
    y = (np.arange(64 // stride) + 0.5) * stride
    output = (1 + 0.02 * x[None] + 0.01 * y[:, None]).astype(np.float32)[None]
    decoded = TASK.decode({"distance.depth": output}, view, {})
    rows, columns = np.mgrid[0:60, 0:150] + 0.5
    wanted = 1 + 0.02 * (columns * view.scale + view.left) + 0.01 * (rows * view.scale + view.top)
    inside = (slice(6, -6), slice(6, -6))
    assert decoded.shape == (60, 150)
    np.testing.assert_allclose(decoded[inside], wanted[inside], atol=0.01)

    label = (1 + 0.02 * (np.arange(96) + 0.5)[None] + 0.01 * (np.arange(64) + 0.5)[:, None]).astype(
        np.float32
    )
    label[:4] = label[-4:] = label[:, :4] = label[:, -4:] = np.nan
    loss = TASK.loss(
        {"distance.depth": torch.from_numpy(output)[None]}, TASK.collate([label], (64, 96))
    )
    assert loss.item() < 1e-4


def test_metric_by_hand() -> None:
    result = evaluate(([1, 2, NAN, 0], [1.5, 2, 9, 9]), ([4], [2]))
    assert result.values["rmse_m"] == pytest.approx(((0.25 + 0 + 4) / 3) ** 0.5)
    assert result.values["abs_rel"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert result.count == 3


def test_nothing_to_measure_says_so() -> None:
    for result in (TASK.new_metric().result(), evaluate(([NAN, 0], [1, 1]))):
        assert result.values == {"rmse_m": None, "abs_rel": None} and result.note
    metric = TASK.new_metric()
    metric.update({"distance": np.ones((1, 1))}, Sample("x", np.zeros((1, 1, 3), np.uint8)))
    assert metric.result().count == 0


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_an_answer_that_is_no_number_is_no_accuracy(bad: float) -> None:
    result = evaluate(([1, 2], [1, bad]))
    assert result.values["rmse_m"] is None and "1 labelled pixels" in result.note
    assert evaluate(([1, NAN], [1, bad])).values["rmse_m"] == 0.0, "where no label is, it may"


def test_description_and_drawing() -> None:
    decoded = np.array([[1.0, 2.0], [3.0, NAN]], np.float32)
    described = TASK.describe({TASK.name: decoded})
    assert described == {"nearest_m": 1.0, "median_m": 2.0, "farthest_m": 3.0}
    json.dumps(described)
    assert TASK.describe({TASK.name: np.full((2, 2), NAN, np.float32)}) is None
    for depth in (decoded, np.ones((2, 2), np.float32), np.full((2, 2), NAN, np.float32)):
        drawn = TASK.draw(np.full((2, 2, 3), 90, np.uint8), {"distance": depth})
        assert drawn.shape == (2, 2, 3) and drawn.dtype == np.uint8


def test_task_is_rebuilt_from_its_spec() -> None:
    again = build(TASK.spec())
    assert isinstance(again, Depth) and again.spec() == TASK.spec()
    assert again.outputs == ("distance.depth",)
