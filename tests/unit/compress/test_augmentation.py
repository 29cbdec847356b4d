"""Random views of training pictures: labels stay true."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgemtl.compress.augmentation import random_view, rescaled
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks import Detection, Segmentation
from edgemtl.tasks.anchors import AnchorSpec

SPEC = InputSpec((96, 128), fill=0.0)
FACES = [Detection("faces", AnchorSpec().to_dict())]


def _one_face(seed: int) -> Sample:
    """A black picture with one white box labelled as a face."""
    rng = np.random.default_rng(seed)
    image = np.zeros((120, 160, 3), np.uint8)
    x, y = (int(v) for v in rng.integers(30, 60, 2))
    cv2.rectangle(image, (x, y), (x + 39, y + 29), (255, 255, 255), -1)
    boxes = np.array([[x, y, x + 40, y + 30]], np.float32)
    points = np.full((1, 5, 2), [x + 20, y + 15], np.float32)
    return Sample("one", image, {"faces": Faces(boxes, points, np.zeros((1, 3), np.float32))})


@pytest.mark.parametrize("seed", range(8))
def test_rescaled_faces_keep_their_labels(seed: int) -> None:
    moved = rescaled(_one_face(seed), FACES, SPEC, np.random.default_rng(seed))
    faces = moved.labels["faces"]
    assert len(faces) == 1 and moved.image.shape[:2] == SPEC.size
    white = moved.image[:, :, 0] > 200
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(faces.boxes[0], found, atol=2.0)


@pytest.mark.parametrize("seed", range(6))
def test_random_views_keep_dense_labels(seed: int) -> None:
    """The label is 1 exactly where the picture is bright, before and after."""
    image = np.full((90, 120, 3), 20, np.uint8)
    label = np.zeros((90, 120), np.int64)
    image[30:60, 40:90] = 240
    label[30:60, 40:90] = 1
    view = random_view(
        Sample("one", image, {"segmentation": label}),
        [Segmentation("parts", ("dark", "bright"))],
        SPEC,
        np.random.default_rng(seed),
    )
    assert view.canvas.shape == (3, *SPEC.size)
    bright = view.canvas.astype(np.float32).mean(axis=0)
    moved = view.labels["segmentation"]
    assert moved.shape == SPEC.size
    assert bright[moved == 1].mean() > bright[moved == 0].mean() + 60


def test_views_depend_on_the_seed_only() -> None:
    sample = _one_face(0)
    a, b = (random_view(sample, FACES, SPEC, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a.canvas, b.canvas)
    np.testing.assert_array_equal(a.labels["faces"].boxes, b.labels["faces"].boxes)
