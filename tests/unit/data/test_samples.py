"""Faces: mirroring and moving."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.data.samples import Faces


def random_faces(seed: int, count: int) -> Faces:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (count, 2))
    landmarks = rng.uniform(0, 100, (count, 5, 2)).astype(np.float32)
    landmarks[rng.random(count) < 0.3] = np.nan
    pose = rng.uniform(-99, 99, (count, 3)).astype(np.float32)
    pose[rng.random(count) < 0.3] = np.nan
    boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (count, 2))], axis=1)
    return Faces(boxes.astype(np.float32), landmarks, pose)


def assert_equal(a: Faces, b: Faces, atol: float = 1e-4) -> None:
    for x, y in ((a.boxes, b.boxes), (a.landmarks, b.landmarks), (a.pose, b.pose)):
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_allclose(x, y, atol=atol)


@given(st.integers(0, 2**31), st.integers(0, 4), st.floats(1, 500))
def test_mirroring_twice_changes_nothing(seed: int, count: int, width: float) -> None:
    faces = random_faces(seed, count)
    assert_equal(faces.mirrored(width).mirrored(width), faces)


def test_mirroring_by_hand() -> None:
    """Left and right of eyes and mouth swap; yaw and roll change sign, pitch stays."""
    points = np.array([[[10, 1], [20, 2], [15, 3], [11, 4], [19, 5]]], np.float32)
    faces = Faces(np.array([[5, 0, 30, 40]], np.float32), points, np.array([[7, 8, 9]], np.float32))
    mirrored = faces.mirrored(100)
    np.testing.assert_array_equal(mirrored.boxes, [[70, 0, 95, 40]])
    np.testing.assert_array_equal(
        mirrored.landmarks, [[[80, 2], [90, 1], [85, 3], [81, 5], [89, 4]]]
    )
    np.testing.assert_array_equal(mirrored.pose, [[-7, 8, -9]])
    np.testing.assert_array_equal(faces.boxes, [[5, 0, 30, 40]])  # the original is untouched


def test_unlabelled_stays_unlabelled() -> None:
    faces = random_faces(1, 6)
    for other in (faces.mirrored(100), faces.moved(2, 0.5, 3, 4)):
        np.testing.assert_array_equal(np.isnan(other.landmarks), np.isnan(faces.landmarks))
        np.testing.assert_array_equal(np.isnan(other.pose), np.isnan(faces.pose))


@given(st.integers(0, 2**31), st.floats(0.1, 8), st.floats(0.1, 8), st.floats(-50, 50))
def test_moving_is_undone_by_its_inverse(seed: int, sx: float, sy: float, shift: float) -> None:
    faces = random_faces(seed, 3)
    moved = faces.moved(sx, sy, shift, -shift)
    np.testing.assert_allclose(moved.boxes[:, 0], faces.boxes[:, 0] * sx + shift, rtol=1e-4)
    np.testing.assert_allclose(moved.boxes[:, 3], faces.boxes[:, 3] * sy - shift, rtol=1e-3)
    assert_equal(moved.moved(1 / sx, 1 / sy, -shift / sx, shift / sy), faces, atol=5e-3)


def test_taking_faces_by_mask_and_index() -> None:
    faces = random_faces(2, 4)
    by_mask = faces.take(np.array([True, False, False, True]))
    assert_equal(by_mask, faces.take(np.array([0, 3])))
    assert len(by_mask) == 2 and len(Faces.empty()) == 0
    assert len(Faces.empty().mirrored(10).moved(1, 1, 0, 0)) == 0
