"""Average precision as COCO's own evaluator finds it, for boxes and key points."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgemtl.tasks.coco_protocol import (
    HIT,
    IGNORED,
    MISS,
    MOST_ANSWERS,
    average_over_thresholds,
    box_overlap,
    interpolated_precision,
    outcomes,
    point_similarity,
)

NOBODY = np.zeros(2, bool)


def test_the_best_answer_takes_the_object_that_it_overlaps_most() -> None:
    overlap = np.array([[0.96, 0.6], [0.7, 0.2], [0.97, 0.1]])
    found = outcomes(overlap, NOBODY, NOBODY)
    assert found[0].tolist() == [HIT, MISS, MISS]  # at 0.50: one object is left, too far away
    assert found[-1].tolist() == [HIT, MISS, MISS]  # at 0.95
    assert outcomes(overlap[1:], NOBODY, NOBODY)[4].tolist() == [HIT, MISS]  # at 0.70


def test_a_crowd_counts_neither_way_and_takes_all() -> None:
    overlap = np.array([[0.9, 0.6], [0.9, 0.1], [0.9, 0.1], [0.0, 0.0]])
    crowd = np.array([True, False])
    found = outcomes(overlap, crowd, crowd)[0].tolist()
    assert found == [HIT, IGNORED, IGNORED, MISS]


def test_precision_at_101_recalls_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    found = np.array([HIT, MISS, HIT, IGNORED])
    # recall 0.5 with precision 1 (51 recalls), 1.0 with 2/3 (50 recalls)
    wanted = (51 + 50 * 2 / 3) / 101
    assert interpolated_precision(scores, found, 2) == pytest.approx(wanted)
    assert interpolated_precision(scores[:0], found[:0], 2) == 0


def test_overlap_by_hand() -> None:
    a = np.float32([[0, 0, 10, 10], [np.nan] * 4])
    b = np.float32([[5, 0, 15, 10], [0, 0, 100, 100]])
    found = box_overlap(a, b, np.array([False, True]))
    assert found[0].tolist() == pytest.approx([50 / 150, 1.0])


# --- beside COCO's evaluator -----------------------------------------------------------------


def evaluated(kind: str, categories: list[Any], labels: list[Any], answers: list[Any]) -> Any:
    """pycocotools' evaluation."""
    COCO = pytest.importorskip("pycocotools.coco").COCO
    COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        images = [{"id": index, "width": 500, "height": 500} for index in range(20)]
        truth.dataset = {"images": images, "annotations": labels, "categories": categories}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(answers), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count, 4) x y w h, with fractions."""
    return np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(20, 150, (count, 2))], 1)


def corners(xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)


def test_boxes_as_pycocotools() -> None:
    rng = np.random.default_rng(3)
    labels: list[Any] = []
    answers: list[Any] = []
    ours: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for image in range(20):
        for category in ours:
            if category == 3 and image:
                continue
            own = boxes(rng, int(rng.integers(0, 5)) + (category == 3))
            crowd = rng.random(len(own)) < 0.2
            near = own[rng.integers(0, len(own), 6)] if len(own) else boxes(rng, 4)
            seen = np.concatenate([near + rng.normal(0, 6, near.shape), boxes(rng, 2)])
            if image == 5:
                seen = np.concatenate([seen, boxes(rng, MOST_ANSWERS)])
            seen = np.maximum(seen, 1)
            scores = np.round(rng.random(len(seen)), 2)  # some are equal
            for box, many in zip(own, crowd, strict=True):
                labels.append({"id": len(labels) + 1, "image_id": image, "category_id": category})
                labels[-1] |= {"bbox": box.tolist(), "iscrowd": int(many)}
                labels[-1]["area"] = float(box[2] * box[3])
            for box, score in zip(seen, scores, strict=True):
                row = {"image_id": image, "category_id": category, "bbox": box.tolist()}
                answers.append(row | {"score": float(score)})
            order = np.argsort(-scores, kind="mergesort")[:MOST_ANSWERS]
            overlap = box_overlap(corners(seen[order]), corners(own), crowd)
            ours[category].append((scores[order], outcomes(overlap, crowd, crowd), (~crowd).sum()))
    categories = [{"id": one, "name": str(one)} for one in ours]
    theirs = evaluated("bbox", categories, labels, answers)
    precision = []
    for place, parts in enumerate(ours.values()):
        scores = np.concatenate([part[0] for part in parts])
        found = np.concatenate([part[1] for part in parts], axis=1)
        mine = average_over_thresholds(scores, found, int(sum(part[2] for part in parts)))
        reference = theirs.eval["precision"][:, :, place, 0, 2].mean(axis=1)
        assert mine == pytest.approx(reference, abs=1e-12)
        precision.append(mine.mean())
    assert float(np.mean(precision)) == pytest.approx(theirs.stats[0], abs=1e-12)
    assert 0.05 < theirs.stats[0] < 0.95


def test_key_points_as_pycocotools() -> None:
    rng = np.random.default_rng(4)
    sigmas = np.array([0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062])
    sigmas = np.concatenate([sigmas, [0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]])
    labels: list[Any] = []
    answers: list[Any] = []
    similar, scores = [], []
    for image in range(20):
        points = rng.uniform(100, 300, (17, 2))
        there = rng.random(17) < 0.8
        area = float(rng.uniform(5000, 20000))
        flat = np.concatenate([points, there[:, None] * 2], 1)
        flat[~there] = 0
        labels.append({"id": image + 1, "image_id": image, "category_id": 1, "iscrowd": 0})
        labels[-1] |= {"area": area, "bbox": [100, 100, 200, 200]}
        labels[-1] |= {"keypoints": flat.ravel().tolist(), "num_keypoints": int(there.sum())}
        seen = points + rng.normal(0, rng.uniform(1, 15), points.shape)
        score = float(np.round(rng.random(), 1))
        told = np.concatenate([seen, np.ones((17, 1))], 1)
        answers.append({"image_id": image, "category_id": 1, "score": score})
        answers[-1]["keypoints"] = told.ravel().tolist()
        wanted = np.where(there[:, None], points, np.nan)
        similar.append(point_similarity(seen, wanted, area, sigmas))
        scores.append(score)
    theirs = evaluated("keypoints", [{"id": 1, "name": "person"}], labels, answers)
    each = [float(theirs.ious[image, 1][0, 0]) for image in range(20)]
    assert similar == pytest.approx(each, abs=1e-9)
    found = np.concatenate(
        [outcomes(np.array([[one]]), NOBODY[:1], NOBODY[:1]) for one in similar], axis=1
    )
    mine = average_over_thresholds(np.array(scores), found, 20)
    assert float(mine.mean()) == pytest.approx(theirs.stats[0], abs=1e-12)
    assert 0.05 < theirs.stats[0] < 0.95
