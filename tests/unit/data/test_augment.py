"""Turning an image turns the head in it: checked against the renderer's rotation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgemtl.data.augment import rotate, turned_pose
from edgemtl.data.samples import Faces, Sample

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from calibfaces.head import rotation


def test_a_turned_pose_is_the_head_s_rotation_followed_by_the_image_s() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        yaw, pitch, roll, turn = rng.uniform(-80, 80, 4)
        after = turned_pose(np.array([[yaw, pitch, roll]], np.float32), turn)[0]
        wanted = rotation(0, 0, turn) @ rotation(pitch, yaw, roll)
        np.testing.assert_allclose(rotation(after[1], after[0], after[2]), wanted, atol=1e-5)


def test_a_frontal_face_gains_roll_and_a_profile_turned_upright_looks_down() -> None:
    frontal = np.array([[0, 0, 5]], np.float32)
    np.testing.assert_allclose(turned_pose(frontal, 20), [[0, 0, 25]], atol=1e-4)
    # Facing the image's left; a quarter turn clockwise brings the nose up.
    profile = np.array([[60, 0, 0]], np.float32)
    yaw, pitch, _ = turned_pose(profile, 90)[0]
    assert (yaw, pitch) == pytest.approx((0, 60), abs=1e-3)


def test_no_turn_changes_nothing_and_an_unlabelled_pose_stays_unlabelled() -> None:
    pose = np.array([[30, -20, 10], [np.nan] * 3], np.float32)
    np.testing.assert_allclose(turned_pose(pose, 0), pose, atol=1e-4)


def test_rotate_turns_box_landmarks_and_pose_together() -> None:
    landmarks = np.array([[[20, 30], [40, 30], [30, 40], [22, 50], [38, 50]]], np.float32)
    faces = Faces(
        np.array([[15, 20, 45, 60]], np.float32), landmarks, np.array([[0, 0, 0]], np.float32)
    )
    sample = Sample("one", np.zeros((80, 60, 3), np.uint8), {"faces": faces})
    turned = rotate(sample, 30).labels["faces"]
    eyes = turned.landmarks[0, 1] - turned.landmarks[0, 0]
    assert np.degrees(np.arctan2(eyes[1], eyes[0])) == pytest.approx(30, abs=1e-3)
    assert turned.pose[0, 2] == pytest.approx(30, abs=1e-3)
    assert turned.boxes[0, 0] < turned.landmarks[0, :, 0].min()
