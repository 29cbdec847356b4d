"""Priors, encoding and matching."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.data.samples import Faces
from edgemtl.tasks.anchors import (
    AnchorSpec,
    collate_faces,
    decode_boxes,
    decode_points,
    encode_boxes,
    encode_points,
    iou_matrix,
    match_faces,
    priors,
)

SPEC = AnchorSpec()
CANVAS = (64, 96)


@pytest.mark.parametrize(
    ("canvas", "count"),
    [((640, 640), 16_800), ((480, 640), 12_600), ((320, 320), 4_200), ((300, 300), 3_810)],
)
def test_number_of_priors_is_the_published_one(canvas: tuple[int, int], count: int) -> None:
    assert len(priors(SPEC, canvas)) == count == SPEC.count(canvas)


def test_priors_are_ordered_by_level_row_column_size() -> None:
    wanted = [
        ((column + 0.5) * stride, (row + 0.5) * stride, size)
        for stride, sizes in zip((8, 16, 32), ((16, 32), (64, 128), (256, 512)), strict=True)
        for row, column, size in itertools.product(
            range(math.ceil(70 / stride)), range(math.ceil(90 / stride)), sizes
        )
    ]
    np.testing.assert_array_equal(priors(SPEC, (70, 90)), np.array(wanted, np.float32))


def test_shared_priors_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        priors(SPEC, CANVAS)[0, 0] = 1


coordinate = st.floats(-200, 300, width=32)
extent = st.floats(1, 400, width=32)


@given(
    st.lists(st.tuples(coordinate, coordinate, extent, extent), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
def test_decoding_boxes_inverts_encoding(
    rows: list[tuple[float, float, float, float]], seed: int
) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32)
    grid = priors(SPEC, CANVAS)
    grid = grid[np.random.default_rng(seed).integers(0, len(grid), len(boxes))]
    encoded = encode_boxes(torch.from_numpy(boxes), torch.from_numpy(grid), SPEC)
    np.testing.assert_allclose(decode_boxes(encoded.numpy(), grid, SPEC), boxes, atol=0.02)


@given(st.integers(0, 2**31))
def test_decoding_points_inverts_encoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = priors(SPEC, CANVAS)
    grid = grid[rng.integers(0, len(grid), 6)]
    points = rng.uniform(-100, 200, (6, 5, 2)).astype(np.float32)
    encoded = encode_points(torch.from_numpy(points), torch.from_numpy(grid), SPEC)
    assert encoded.shape == (6, 10)
    np.testing.assert_allclose(decode_points(encoded.numpy(), grid, SPEC), points, atol=1e-3)


def test_decoding_is_the_published_formula() -> None:
    """MOS section 4 with a prior (x, y, s): worked by hand for one box and one point."""
    grid = np.array([[20.0, 12.0, 16.0]], np.float32)
    box = decode_boxes(np.array([[1.0, -2.0, 0.5, -0.5]], np.float32), grid, SPEC)[0]
    width, height = 16 * math.exp(0.1), 16 * math.exp(-0.1)
    centre = (20 + 1.6, 12 - 3.2)
    np.testing.assert_allclose(
        box,
        [
            centre[0] - width / 2,
            centre[1] - height / 2,
            centre[0] + width / 2,
            centre[1] + height / 2,
        ],
        rtol=1e-6,
    )
    point = decode_points(np.array([[1, 2] + [0] * 8], np.float32), grid, SPEC)[0]
    np.testing.assert_allclose(point[:2], [[21.6, 15.2], [20, 12]], rtol=1e-6)


def test_an_absurd_size_stays_finite() -> None:
    grid = priors(SPEC, CANVAS)[:1]
    assert np.isfinite(decode_boxes(np.full((1, 4), 1e6, np.float32), grid, SPEC)).all()


def test_iou_of_worked_cases() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array(
        [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [3, 3, 3, 3]], np.float32
    )
    np.testing.assert_allclose(iou_matrix(a, b)[0], [1, 1 / 3, 0, 0.04, 0], atol=1e-6)


boxes_strategy = st.lists(
    st.tuples(
        st.floats(-20, 100, width=32),
        st.floats(-20, 70, width=32),
        st.floats(1, 90, width=32),
        st.floats(1, 60, width=32),
    ),
    max_size=5,
).map(lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows], "f4").reshape(-1, 4))


@given(boxes_strategy, boxes_strategy)
def test_iou_is_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    overlap = iou_matrix(a, b)
    assert overlap.shape == (len(a), len(b))
    assert ((overlap >= 0) & (overlap <= 1 + 1e-6)).all()
    np.testing.assert_array_equal(overlap, iou_matrix(b, a).T)


@given(boxes_strategy)
def test_matching_follows_its_two_rules(boxes: np.ndarray) -> None:
    """From IoU 0.35 on a prior is positive; below, only as the best prior of its face."""
    grid = priors(SPEC, CANVAS)
    answer = match_faces(grid, boxes)
    if len(boxes) == 0:
        assert (answer == -1).all()
        return
    half = grid[:, 2:] / 2
    overlap = iou_matrix(np.concatenate([grid[:, :2] - half, grid[:, :2] + half], axis=1), boxes)
    best_priors = set(overlap.argmax(axis=0).tolist())
    for prior, face in enumerate(answer):
        if prior in best_priors:
            continue
        best = overlap[prior].max()
        assert (face >= 0) == (best >= 0.35)
        if face >= 0:
            assert overlap[prior, face] == best
    # A lone face is always trained on, however badly it fits.
    inside = overlap.max(axis=0) > 0
    if inside.sum() == 1:
        assert int(np.flatnonzero(inside)[0]) in answer


def test_a_tiny_face_still_gets_its_best_prior() -> None:
    answer = match_faces(priors(SPEC, CANVAS), np.array([[21, 21, 23, 23]], np.float32))
    assert (answer >= 0).sum() == 1


def test_a_face_outside_the_canvas_claims_nothing() -> None:
    answer = match_faces(priors(SPEC, CANVAS), np.array([[2000, 2000, 2010, 2010]], np.float32))
    assert (answer == -1).all()


def test_a_batch_numbers_faces_over_all_images() -> None:
    def one(x: float) -> Faces:
        return Faces(
            np.array([[x, 20, x + 16, 36]], np.float32),
            np.full((1, 5, 2), x, np.float32),
            np.full((1, 3), x, np.float32),
        )

    batch = collate_faces([one(10), None, one(50)], CANVAS)
    match = batch.match(SPEC)
    assert match is batch.match(SPEC), "computed once for all face tasks"
    assert set(match.image.tolist()) == {0, 2}
    assert torch.equal(match.face, (match.image == 2).long())
    assert batch.boxes().shape == (2, 4)
    assert batch.pose()[match.face[match.image == 2]].unique().tolist() == [50.0]


@pytest.mark.parametrize(
    "change",
    [
        {"strides": [8, 16]},
        {"sizes": [[16, 32], [64], [256, 512]]},
        {"strides": [8, 0, 32]},
        {"sizes": [[16, 32], [64, -1], [256, 512]]},
        {"strides": [], "sizes": []},
        {"sizes": [[], [], []]},
        {"variances": [0.1]},
        {"variances": [0.1, 0.0]},
        {"variances": [0.1, float("nan")]},
        {"variances": [0.1, float("inf")]},
    ],
)
def test_unusable_anchor_specs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="anchors need"):
        AnchorSpec.from_dict({**SPEC.to_dict(), **change})


def test_anchor_spec_survives_its_dict() -> None:
    spec = AnchorSpec((4, 8), ((10, 20, 30), (40, 50, 60)), (0.2, 0.3))
    assert AnchorSpec.from_dict(spec.to_dict()) == spec
    assert spec.per_cell == 3
