"""Results on pictures: marks on one copy, dense maps beside it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.data import random_image

from edgemtl.report.drawing import CAPTION, GAP, draw_results, is_dense
from edgemtl.tasks import Depth, Detection, HeadPose, Landmarks, Segmentation
from edgemtl.tasks.anchors import AnchorSpec
from edgemtl.tasks.detection import Detections

SIZE = (90, 120)


@pytest.fixture
def picture() -> np.ndarray:
    return random_image(np.random.default_rng(0), SIZE)


def _faces() -> dict[str, object]:
    found = Detections(
        np.array([[20, 20, 70, 80]], np.float32),
        np.array([0.9], np.float32),
        np.array([0], np.intp),
    )
    points = np.array([[[30, 40], [60, 40], [45, 55], [35, 70], [55, 70]]], np.float32)
    return {"detection": found, "landmarks": points, "pose": np.array([[20, 5, 0]], np.float32)}


def _face_tasks() -> list[object]:
    anchors = AnchorSpec().to_dict()
    return [
        Detection("detection", anchors),
        Landmarks("landmarks", anchors),
        HeadPose("pose", anchors),
    ]


def _dense() -> dict[str, object]:
    classes = np.zeros(SIZE, np.int64)
    classes[:, 60:] = 1
    return {
        "parts": classes,
        "distance": np.linspace(1, 5, 90 * 120, dtype=np.float32).reshape(SIZE),
    }


def test_marks_share_the_picture_and_leave_the_given_one(picture: np.ndarray) -> None:
    before = picture.copy()
    drawn = draw_results(picture, _face_tasks(), _faces())
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert np.array_equal(picture, before)
    changed = (drawn != picture).any(axis=2)
    assert changed[20, 20:70].mean() > 0.9, "the box's upper edge"
    assert changed[40, 30] and changed[70, 55], "landmarks"
    assert not changed[:, 100:].any(), "nothing is drawn where nothing was found"


def test_each_dense_task_has_a_panel(picture: np.ndarray) -> None:
    tasks = [Segmentation("parts", ["ground", "block"]), Depth("distance")]
    drawn = draw_results(picture, tasks, _dense())
    height, width = SIZE
    assert drawn.shape == (height + CAPTION, 3 * width + 2 * GAP, 3)
    plain, parts, distance = (
        drawn[CAPTION:, i * (width + GAP) : i * (width + GAP) + width] for i in range(3)
    )
    assert np.array_equal(plain, picture)
    assert np.array_equal(parts, tasks[0].draw(picture.copy(), _dense()))
    assert np.array_equal(distance, tasks[1].draw(picture.copy(), _dense()))
    captions = drawn[:CAPTION]
    assert (captions < 128).any(), "the panels are named"


def test_marks_and_maps_together_wrap_into_rows(picture: np.ndarray) -> None:
    tasks = [*_face_tasks(), Segmentation("parts", ["a", "b"]), Depth("distance"), Depth("far")]
    decoded = {**_faces(), **_dense(), "far": np.ones(SIZE, np.float32)}
    drawn = draw_results(picture, tasks, decoded)
    height, width = SIZE
    assert drawn.shape == (2 * (height + CAPTION) + GAP, 3 * width + 2 * GAP, 3)
    assert np.array_equal(
        drawn[CAPTION : CAPTION + height, :width], draw_results(picture, _face_tasks(), _faces())
    )


def test_tasks_without_a_result_are_left_out(picture: np.ndarray) -> None:
    decoded = {"detection": _faces()["detection"]}
    drawn = draw_results(picture, [*_face_tasks(), Depth("distance")], decoded)
    assert np.array_equal(drawn, draw_results(picture, _face_tasks()[:1], decoded))
    assert np.array_equal(draw_results(picture, [Depth("distance")], {}), picture)
    alone = {"landmarks": _faces()["landmarks"]}  # whose detections are not there
    assert np.array_equal(draw_results(picture, _face_tasks(), alone), picture)


def test_only_what_covers_every_pixel_is_dense() -> None:
    assert is_dense(np.zeros((90, 120)), SIZE) and is_dense(np.zeros((90, 120, 3)), SIZE)
    assert not is_dense(np.zeros((90,)), SIZE) and not is_dense(np.zeros((5, 2)), SIZE)
    assert not is_dense(_faces()["detection"], SIZE)


def test_names_in_other_letters_do_not_stop_the_drawing(picture: np.ndarray) -> None:
    drawn = draw_results(picture, [Depth("Tiefe é")], {"Tiefe é": np.ones(SIZE, np.float32)})
    done, _ = cv2.imencode(".png", drawn)
    assert done
