"""Detection: multibox loss, decoding, suppression, drawing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Faces
from edgemtl.tasks.anchors import AnchorSpec, FaceBatch, encode_boxes, priors
from edgemtl.tasks.detection import (
    SCORE_FLOOR,
    Detection,
    Detections,
    softmax_face_score,
    suppress,
)

SPEC = AnchorSpec()
CANVAS = (64, 96)
COUNT = SPEC.count(CANVAS)
TASK = Detection("detection", SPEC.to_dict())


def one_face(box: tuple[float, float, float, float] = (20, 12, 52, 44)) -> Faces:
    return Faces(
        np.array([box], np.float32),
        np.full((1, 5, 2), np.nan, np.float32),
        np.full((1, 3), np.nan, np.float32),
    )


def outputs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "detection.scores": torch.randn((batch, COUNT, 2), generator=generator).requires_grad_(),
        "detection.boxes": torch.randn((batch, COUNT, 4), generator=generator).requires_grad_(),
    }


def test_loss_is_the_multibox_loss_computed_by_hand() -> None:
    """One picture, one face: positives, 7 hardest negatives each, everything per positive."""
    targets = TASK.collate([one_face()], CANVAS)
    match = targets.match(SPEC)
    positives = match.prior.tolist()
    answer = outputs(1)
    terms = TASK.loss_terms(answer, targets)

    log_share = F.log_softmax(answer["detection.scores"][0].detach(), dim=1)
    negatives = sorted(-log_share[i, 0].item() for i in range(COUNT) if i not in positives)
    hardest = negatives[-7 * len(positives) :]
    wanted = (sum(-log_share[i, 1].item() for i in positives) + sum(hardest)) / len(positives)
    assert len(positives) * 8 < COUNT, "or nothing is mined"
    assert terms["class"].item() == pytest.approx(wanted, rel=1e-5)

    grid = torch.from_numpy(priors(SPEC, CANVAS)[positives].copy())
    face = torch.tensor([[20.0, 12.0, 52.0, 44.0]]).repeat(len(positives), 1)
    error = (answer["detection.boxes"][0, positives] - encode_boxes(face, grid, SPEC)).abs()
    smooth = torch.where(error < 1, 0.5 * error**2, error - 0.5)
    assert terms["box"].item() == pytest.approx(smooth.sum().item() / len(positives), rel=1e-5)
    assert TASK.loss(answer, targets).item() == pytest.approx(
        terms["class"].item() + terms["box"].item()
    )


@pytest.mark.parametrize("ratio", [1, 3, 7])
def test_gradient_reaches_positives_and_mined_negatives_only(ratio: int) -> None:
    task = Detection("detection", SPEC.to_dict(), negatives_per_positive=ratio)
    targets = task.collate([one_face(), one_face((60, 30, 76, 46))], CANVAS)
    match = targets.match(SPEC)
    answer = outputs(2)
    task.loss(answer, targets).backward()
    scores, boxes = answer["detection.scores"].grad, answer["detection.boxes"].grad
    assert scores is not None and boxes is not None
    for image in range(2):
        positive = int((match.image == image).sum())
        touched = int((scores[image].abs().sum(dim=1) > 0).sum())
        assert touched == positive + max(ratio * positive, 8)
        touched_boxes = set(torch.nonzero(boxes[image].abs().sum(dim=1))[:, 0].tolist())
        assert touched_boxes == set(match.prior[match.image == image].tolist())


def test_negatives_never_outnumber_the_background() -> None:
    task = Detection("detection", SPEC.to_dict(), negatives_per_positive=10_000)
    answer = outputs(1)
    task.loss(answer, task.collate([one_face()], CANVAS)).backward()
    assert answer["detection.scores"].grad is not None
    assert int((answer["detection.scores"].grad.abs().sum(dim=2) > 0).sum()) == COUNT


def test_images_that_nobody_labelled_teach_nothing() -> None:
    answer = outputs(2)
    assert TASK.loss(answer, TASK.collate([None, None], CANVAS)).item() == 0
    alone = {name: value[:1] for name, value in answer.items()}
    wanted = TASK.loss(alone, TASK.collate([one_face()], CANVAS))
    beside = TASK.loss(answer, TASK.collate([one_face(), None], CANVAS))
    torch.testing.assert_close(beside, wanted)


def test_images_without_faces_teach_a_few_negatives_and_no_box() -> None:
    answer = outputs(2)
    labels = [Faces.empty(), Faces.empty()]
    terms = TASK.loss_terms(answer, TASK.collate(labels, CANVAS))
    assert terms["box"].item() == 0
    assert math.isfinite(terms["class"].item()) and terms["class"].item() > 0
    TASK.loss(answer, TASK.collate(labels, CANVAS)).backward()
    scores, boxes = answer["detection.scores"].grad, answer["detection.boxes"].grad
    assert scores is not None and boxes is not None
    assert int((scores.abs().sum(dim=2) > 0).sum()) == 16
    assert boxes.abs().sum().item() == 0


def test_a_better_answer_costs_less() -> None:
    targets: FaceBatch = TASK.collate([one_face()], CANVAS)
    match = targets.match(SPEC)
    scores = torch.tensor([5.0, -5.0]).repeat(1, COUNT, 1)
    scores[0, match.prior] = torch.tensor([-5.0, 5.0])
    boxes = torch.zeros(1, COUNT, 4)
    grid = targets.grid(SPEC)[match.prior]
    boxes[0, match.prior] = encode_boxes(targets.boxes()[match.face], grid, SPEC)
    right = TASK.loss({"detection.scores": scores, "detection.boxes": boxes}, targets)
    wrong = TASK.loss({"detection.scores": -scores, "detection.boxes": boxes + 1}, targets)
    assert right.item() < 0.01 < 5 < wrong.item()


def test_decoding_gives_back_what_was_encoded_in_pixels_of_the_image() -> None:
    """A 200 x 100 picture on a 64 x 96 canvas: half size less a bit, with a border on two sides."""
    _, view = letterbox(np.zeros((100, 200, 3), np.uint8), InputSpec(CANVAS))
    box = np.array([[50, 20, 110, 90]], np.float32)
    canvas_box = box * view.scale + np.array([view.left, view.top] * 2, np.float32)
    index = 77
    logits = np.tile(np.array([6.0, -6.0], np.float32), (COUNT, 1))
    logits[index] = (-2.0, 2.0)
    boxes = np.zeros((COUNT, 4), np.float32)
    grid = torch.from_numpy(priors(SPEC, CANVAS)[[index]].copy())
    boxes[index] = encode_boxes(torch.from_numpy(canvas_box), grid, SPEC).numpy()[0]
    found = TASK.decode({"detection.scores": logits, "detection.boxes": boxes}, view, {})
    assert found.prior_index.tolist() == [index]
    np.testing.assert_allclose(found.boxes, box, atol=1e-2)
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-4)))
    described = TASK.describe({TASK.name: found})
    assert described == [
        {"box": pytest.approx([50, 20, 60, 70], abs=1e-2), "score": pytest.approx(found.scores[0])}
    ]
    json.dumps(described)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_answers_that_are_no_number_are_no_detections(bad: float) -> None:
    _, view = letterbox(np.zeros((*CANVAS, 3), np.uint8), InputSpec(CANVAS))
    logits = np.tile(np.array([-3.0, 3.0], np.float32), (COUNT, 1))
    boxes = np.zeros((COUNT, 4), np.float32)
    good = TASK.decode({"detection.scores": logits, "detection.boxes": boxes}, view, {})
    boxes[::2, :2] = bad
    found = TASK.decode({"detection.scores": logits, "detection.boxes": boxes}, view, {})
    assert len(found) > 0 and np.isfinite(found.boxes).all() and (found.prior_index % 2 == 1).all()
    assert len(good) > 0
    logits[:] = np.nan
    assert len(TASK.decode({"detection.scores": logits, "detection.boxes": boxes}, view, {})) == 0


def test_scores_are_the_softmax_and_survive_large_logits() -> None:
    logits = np.array([[0, 0], [1, 3], [500, -500], [-500, 500]], np.float32)
    wanted = torch.from_numpy(logits).softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(softmax_face_score(logits), wanted, atol=1e-6)


def test_nothing_at_or_below_the_floor_is_a_candidate() -> None:
    _, view = letterbox(np.zeros((*CANVAS, 3), np.uint8), InputSpec(CANVAS))
    edge = math.log(SCORE_FLOOR / (1 - SCORE_FLOOR))
    logits = np.tile(np.array([0.0, edge - 0.01], np.float32), (COUNT, 1))
    empty = {"detection.scores": logits, "detection.boxes": np.zeros((COUNT, 4), np.float32)}
    assert len(TASK.decode(empty, view, {})) == 0
    logits[5, 1] = edge + 0.01
    assert TASK.decode(empty, view, {}).prior_index.tolist() == [5]


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_greedy_at_four_tenths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (80, 2))], axis=1).astype("f4")
    scores = rng.permutation(np.linspace(0.05, 0.95, 80)).astype(np.float32)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        inter = max(width, 0) * max(height, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

    wanted: list[int] = []
    for index in np.argsort(-scores):
        if all(iou(boxes[index], boxes[kept]) <= 0.4 for kept in wanted):
            wanted.append(int(index))
    assert suppress(boxes, scores).tolist() == wanted
    assert len(wanted) < 80, "or nothing was suppressed"


def test_suppression_of_nothing() -> None:
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)).shape == (0,)


def test_drawing_shows_confident_faces_and_survives_boxes_far_outside() -> None:
    image = np.zeros((50, 60, 3), np.uint8)
    boxes = np.array([[10, 10, 30, 30], [-1e12, -1e12, 1e12, 1e12], [5, 5, 9, 9]], np.float32)
    scores = np.array([0.9, 0.8, 0.39], np.float32)
    TASK.draw(image, {"detection": Detections(boxes, scores, np.arange(3))})
    assert image[10, 20].any() and image[20, 10].any()
    assert not image[5:9, 5:9].any(), "below the operating score"
