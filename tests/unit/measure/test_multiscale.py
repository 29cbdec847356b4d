"""Box voting and the passes that feed it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from edgemtl.measure.accuracy import network_runner
from edgemtl.measure.multiscale import (
    TOP_KEPT,
    base_scale,
    detect_multiscale,
    network_detector,
    vote,
)
from edgemtl.models import registry
from edgemtl.tasks.detection import Detection


def table(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 5)


def test_votes_are_weighted_by_score() -> None:
    voted = vote(table((0, 0, 10, 10, 0.9), (2, 0, 12, 10, 0.3)))
    np.testing.assert_allclose(voted, [[0.5, 0, 10.5, 10, 0.9]], atol=1e-5)


def test_candidate_that_nobody_joins_is_discarded() -> None:
    voted = vote(table((0, 0, 10, 10, 0.9), (100, 0, 110, 10, 0.8), (101, 0, 111, 10, 0.1)))
    assert len(voted) == 1
    assert voted[0, 4] == pytest.approx(0.8)
    assert len(vote(table((0, 0, 10, 10, 0.9)))) == 0
    assert vote(table()).shape == (0, 5)


def test_cluster_gathers_at_the_voting_overlap() -> None:
    # side 10, shift 5: overlap 1/3 joins; shift 6: overlap 1/4 does not
    joins = vote(table((0, 0, 10, 10, 0.5), (5, 0, 15, 10, 0.5)))
    np.testing.assert_allclose(joins, [[2.5, 0, 12.5, 10, 0.5]], atol=1e-5)
    assert len(vote(table((0, 0, 10, 10, 0.5), (6, 0, 16, 10, 0.5)))) == 0


def test_members_belong_to_the_best_candidate_only() -> None:
    # the middle one overlaps both ends; the best end takes it, the other end stays alone
    voted = vote(table((0, 0, 10, 10, 0.9), (4, 0, 14, 10, 0.5), (8, 0, 18, 10, 0.8)))
    assert len(voted) == 1
    assert voted[0, 4] == pytest.approx(0.9)


def test_boxes_without_area_or_score_do_no_harm() -> None:
    voted = vote(table((5, 5, 5, 5, 0.9), (0, 0, 10, 10, 0.0), (0, 0, 10, 10, 0.0)))
    assert np.isfinite(voted).all()
    np.testing.assert_allclose(voted, [[0, 0, 10, 10, 0]])


def test_order_and_limit() -> None:
    starts = np.arange(TOP_KEPT + 50) * 20.0
    scores = np.linspace(0.1, 0.9, len(starts))
    boxes = np.stack([starts, starts * 0, starts + 10, starts * 0 + 10, scores], axis=1)
    voted = vote(np.concatenate([boxes, boxes]).astype(np.float32))
    assert len(voted) == TOP_KEPT
    assert (np.diff(voted[:, 4]) <= 0).all()
    assert voted[-1, 4] == pytest.approx(scores[50], abs=1e-6)
    assert len(vote(np.concatenate([boxes, boxes]).astype(np.float32), top=3)) == 3


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(400, 400, 2.0), (800, 1600, 0.75), (1600, 800, 0.75), (1000, 1100, 0.8)],
)
def test_base_scale(height: int, width: int, expected: float) -> None:
    assert base_scale(height, width) == pytest.approx(expected)


def _bright_box(image: np.ndarray) -> np.ndarray:
    """A perfect detector of the one bright rectangle."""
    ys, xs = np.nonzero(image[:, :, 0] > 127)
    if len(xs) == 0:
        return np.zeros((0, 5), np.float32)
    return table((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.9))


def test_every_pass_finds_its_way_back_to_the_image() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[50:90, 30:80] = 255
    voted = detect_multiscale(_bright_box, image, scales=(0.5, 1.0))
    np.testing.assert_allclose(voted, [[30, 50, 80, 90, 0.9]], atol=0.6)


def test_number_of_passes() -> None:
    sizes: list[tuple[int, ...]] = []

    def detect(image: np.ndarray) -> np.ndarray:
        sizes.append(image.shape[:2])
        return np.zeros((0, 5), np.float32)

    image = np.zeros((80, 100, 3), np.uint8)
    assert detect_multiscale(detect, image, scales=(0.05, 0.1)).shape == (0, 5)
    assert sizes == [(40, 50), (40, 50), (80, 100), (80, 100)]
    sizes.clear()
    detect_multiscale(detect, image, scales=(0.1,), flip=False)
    assert sizes == [(80, 100)]


def test_single_plain_pass_keeps_nothing_that_is_alone() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.rectangle(image, (30, 50), (80, 90), (255, 255, 255), -1)
    assert len(detect_multiscale(_bright_box, image, scales=(1.0,), flip=False)) == 0


def test_network_detector_takes_any_image() -> None:
    torch.manual_seed(0)
    network = registry.build("mos", {"variant": "mos-t"})
    task = network.task("detection")
    assert isinstance(task, Detection)
    seen: list[tuple[int, ...]] = []
    inner = network_runner(network)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(images.shape)
        return dict(inner(images))

    detect = network_detector(run, task, network.input_spec)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    found = detect(image)
    assert seen == [(1, 3, 64, 96)]
    assert found.shape == (task.anchors.count((64, 96)), 5)  # an untrained network is undecided
    assert np.isfinite(found).all()
