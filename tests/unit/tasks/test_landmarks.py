"""Landmarks: loss over labelled faces, decoding, and the error by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.anchors import AnchorSpec, encode_points, priors
from edgemtl.tasks.detection import Detections
from edgemtl.tasks.landmarks import Landmarks

SPEC = AnchorSpec()
CANVAS = (64, 96)
COUNT = SPEC.count(CANVAS)
TASK = Landmarks("landmarks", SPEC.to_dict())
POINTS = np.array([[26, 22], [46, 22], [36, 30], [28, 38], [44, 38]], np.float32)
BOX = (20.0, 12.0, 52.0, 44.0)


def face(points: np.ndarray | None, box: tuple[float, ...] = BOX) -> Faces:
    landmarks = np.full((1, 5, 2), np.nan, np.float32) if points is None else points[None]
    return Faces(np.array([box], np.float32), landmarks, np.full((1, 3), np.nan, np.float32))


def found(*boxes: tuple[float, ...], scores: tuple[float, ...] | None = None) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores or [0.9] * count, np.float32),
        np.arange(count),
    )


def evaluate(*images: tuple[Faces, Detections, np.ndarray]):  # type: ignore[no-untyped-def]
    metric = TASK.new_metric()
    for faces, detections, points in images:
        sample = Sample("x", np.zeros((1, 1, 3), np.uint8), {"faces": faces})
        metric.update({"detection": detections, "landmarks": points}, sample)
    return metric.result()


def test_loss_counts_labelled_faces_only() -> None:
    answer = torch.zeros(2, COUNT, 10, requires_grad=True)
    targets = TASK.collate([face(POINTS), face(None)], CANVAS)
    match = targets.match(SPEC)
    mine = match.prior[match.image == 0]
    grid = torch.from_numpy(priors(SPEC, CANVAS)[mine].copy())
    error = encode_points(torch.from_numpy(POINTS).repeat(len(mine), 1, 1), grid, SPEC).abs()
    wanted = torch.where(error < 1, 0.5 * error**2, error - 0.5).sum() / len(mine)
    loss = TASK.loss({"landmarks.points": answer}, targets)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert answer.grad is not None
    assert answer.grad[1].abs().sum().item() == 0
    touched = torch.nonzero(answer.grad[0].abs().sum(dim=1))[:, 0]
    assert touched.tolist() == mine.tolist()


def test_one_missing_point_masks_the_face() -> None:
    """The published row has one label flag for all five points."""
    partly = POINTS.copy()
    partly[3] = np.nan
    answer = torch.ones(1, COUNT, 10, requires_grad=True)
    loss = TASK.loss({"landmarks.points": answer}, TASK.collate([face(partly)], CANVAS))
    assert loss.item() == 0
    loss.backward()
    assert answer.grad is not None and answer.grad.abs().sum().item() == 0


@pytest.mark.parametrize("labels", [[None], [Faces.empty()], [face(None)]])
def test_loss_is_zero_when_nothing_is_labelled(labels: list[Faces | None]) -> None:
    loss = TASK.loss({"landmarks.points": torch.ones(1, COUNT, 10)}, TASK.collate(labels, CANVAS))
    assert loss.item() == 0


def test_decoding_gives_back_what_was_encoded_in_pixels_of_the_image() -> None:
    _, view = letterbox(np.zeros((100, 200, 3), np.uint8), InputSpec(CANVAS))
    points = np.linspace(10, 90, 10, dtype=np.float32).reshape(5, 2)
    on_canvas = points * view.scale + np.array([view.left, view.top], np.float32)
    index = np.array([3, 90])
    grid = torch.from_numpy(priors(SPEC, CANVAS)[index].copy())
    output = np.full((COUNT, 10), np.nan, np.float32)
    output[index] = encode_points(torch.from_numpy(np.stack([on_canvas] * 2)), grid, SPEC).numpy()
    detections = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), index)
    decoded = TASK.decode({"landmarks.points": output}, view, {"detection": detections})
    np.testing.assert_allclose(decoded, np.stack([points] * 2), atol=1e-2)
    none = Detections(np.zeros((0, 4), "f4"), np.zeros(0, "f4"), np.zeros(0, np.int64))
    assert TASK.decode({"landmarks.points": output}, view, {"detection": none}).shape == (0, 5, 2)


def test_error_by_hand() -> None:
    """Box 32 x 32; distances 5, 0, 0, 0, 0 and 8 five times: (1 + 8) / 2 of 32 pixels."""
    first = POINTS.copy()
    first[2] += (3, 4)
    second = POINTS + np.array([8, 0], np.float32)
    result = evaluate(
        (face(POINTS), found(BOX), first[None]), (face(POINTS), found(BOX), second[None])
    )
    assert result.values["nme_percent"] == pytest.approx((1 + 8) / 2 / 32 * 100)
    assert result.values["missed_share"] == 0.0
    assert result.count == 2


def test_the_box_normalises_by_its_geometric_mean() -> None:
    tall = (20.0, 12.0, 36.0, 76.0)  # 16 x 64: sqrt(w * h) = 32
    result = evaluate((face(POINTS, tall), found(tall), (POINTS + np.float32(1))[None]))
    assert result.values["nme_percent"] == pytest.approx(math.sqrt(2) / 32 * 100)


def test_missed_faces_stand_beside_the_mean() -> None:
    result = evaluate(
        (face(POINTS), found(BOX), POINTS[None]),
        (face(POINTS), found(BOX, scores=(0.39,)), POINTS[None]),
        (face(POINTS), found((60.0, 12.0, 90.0, 44.0)), POINTS[None]),
        (face(POINTS), found(), np.zeros((0, 5, 2), np.float32)),
        (face(None), found(), np.zeros((0, 5, 2), np.float32)),
    )
    assert result.values == {"nme_percent": 0.0, "missed_share": 0.75}
    assert result.count == 4, "the face without labelled points is not one of them"


def test_the_better_scored_finder_is_judged() -> None:
    result = evaluate(
        (face(POINTS), found(BOX, BOX, scores=(0.9, 0.8)), np.stack([POINTS, POINTS + 50]))
    )
    assert result.values["nme_percent"] == 0.0


def test_nothing_to_measure_says_so() -> None:
    assert TASK.new_metric().result().note
    nothing = evaluate((face(None), found(BOX), POINTS[None]))
    assert nothing.values == {"nme_percent": None, "missed_share": None} and nothing.note
    missed = evaluate((face(POINTS), found(), np.zeros((0, 5, 2), np.float32)))
    assert missed.values == {"nme_percent": None, "missed_share": 1.0} and missed.note


def test_an_answer_that_is_no_number_is_no_accuracy() -> None:
    broken = POINTS.copy()
    broken[0] = np.nan
    result = evaluate((face(POINTS), found(BOX), broken[None]))
    assert result.values["nme_percent"] is None and "finite" in result.note


def test_drawing_marks_confident_faces_and_survives_anything() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    wild = np.array([[np.nan, 1], [1e30, 2], [-1e30, np.inf], [5, 5], [6, 6]], np.float32)
    TASK.draw(
        image,
        {
            "detection": found(BOX, BOX, BOX, scores=(0.9, 0.8, 0.1)),
            "landmarks": np.stack([POINTS, wild, POINTS + 3]),
        },
    )
    assert image[22, 26].any() and image[5, 5].any()
    assert not image[41, 47].any()
