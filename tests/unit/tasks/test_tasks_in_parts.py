"""Every metric measured in parts gives the figures of one pass, to the last bit."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgemtl.data.objects import Objects
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.base import Metric
from edgemtl.tasks.classification import ClassAccuracy
from edgemtl.tasks.depth import DepthError
from edgemtl.tasks.detection import AveragePrecision, Detections
from edgemtl.tasks.edges import BoundaryF
from edgemtl.tasks.keypoint_metric import FoundPoints
from edgemtl.tasks.keypoints import KeypointTask
from edgemtl.tasks.landmarks import NormalisedMeanError
from edgemtl.tasks.multilabel import Multilabel
from edgemtl.tasks.normals import AngularError
from edgemtl.tasks.object_metric import FoundObjects
from edgemtl.tasks.objects import ObjectDetection
from edgemtl.tasks.pose import MeanAbsoluteAngle
from edgemtl.tasks.raw import Fidelity
from edgemtl.tasks.regression import Regression
from edgemtl.tasks.saliency import LargestF
from edgemtl.tasks.segmentation import MeanIntersectionOverUnion

SIZE = (12, 17)
IMAGES = 11
REGRESSION = Regression("regression", circular=(-20, 20))
MULTILABEL = Multilabel("multilabel", ("a", "b", "c"))
KEYPOINTS = KeypointTask("keypoints", ("a", "b"))
OBJECTS = ObjectDetection("objects", ("a", "b"), {"code": "sides", "strides": [8]})
METRICS = {
    "keypoints": KEYPOINTS.new_metric,
    "objects": OBJECTS.new_metric,
    "regression": REGRESSION.new_metric,
    "multilabel": MULTILABEL.new_metric,
    "raw": lambda: Fidelity("raw", "raw"),
    "classification": lambda: ClassAccuracy("classification", ("a", "b", "c"), "classification"),
    "detection": lambda: AveragePrecision("detection"),
    "landmarks": lambda: NormalisedMeanError("landmarks", "detection"),
    "pose": lambda: MeanAbsoluteAngle("pose", "detection"),
    "segmentation": lambda: MeanIntersectionOverUnion("segmentation", 3),
    "depth": lambda: DepthError("depth"),
    "normals": lambda: AngularError("normals"),
    "edges": lambda: BoundaryF("edges"),
    "saliency": lambda: LargestF("saliency"),
}


def images() -> list[tuple[dict[str, Any], Sample]]:
    """Answers and labels at random; some pictures lack labels or faces."""
    rng = np.random.default_rng(5)
    found = []
    for index in range(IMAGES):
        count = index % 4
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (count, 2))], 1)
        faces = Faces(
            boxes.astype(np.float32),
            rng.uniform(0, 100, (count, 5, 2)).astype(np.float32),
            rng.uniform(-60, 60, (count, 3)).astype(np.float32),
        )
        seen = Detections(
            (boxes + rng.normal(0, 2, boxes.shape)).astype(np.float32),
            np.sort(rng.uniform(0.3, 1, count)).astype(np.float32)[::-1],
            np.arange(count),
        )
        crowd = np.zeros(count, bool)
        labels: dict[str, Any] = {
            "faces": faces,
            "segmentation": rng.integers(-1, 3, SIZE),
            "depth": rng.uniform(1, 9, SIZE).astype(np.float32),
            "normals": rng.normal(size=(*SIZE, 3)).astype(np.float32),
            "edges": rng.integers(-1, 2, SIZE),
            "saliency": rng.integers(-1, 2, SIZE),
            "classification": int(rng.integers(0, 3)),
            "regression": float(rng.uniform(-20, 20)),
            "multilabel": {"a": index % 2, "b": True, "c": None if index % 3 else 1},
            "raw": rng.normal(size=5).astype(np.float32),
            "keypoints": rng.uniform(0, 9, (2, 2)).tolist(),
            "objects": Objects(faces.boxes, tuple("ab"[i % 2] for i in range(count)), crowd),
        }
        if index == 6:
            labels = {}
        decoded: dict[str, Any] = {
            "detection": seen,
            "landmarks": rng.uniform(0, 100, (count, 5, 2)).astype(np.float32),
            "pose": rng.uniform(-60, 60, (count, 3)).astype(np.float32),
            "segmentation": rng.integers(0, 3, SIZE),
            "depth": rng.uniform(1, 9, SIZE).astype(np.float32),
            "normals": rng.normal(size=(*SIZE, 3)).astype(np.float32),
            "edges": rng.uniform(0, 1, SIZE).astype(np.float32),
            "saliency": rng.uniform(0, 1, SIZE).astype(np.float32),
            "classification": rng.uniform(0, 1, 3).astype(np.float32),
            "regression": float(rng.uniform(-20, 20)),
            "multilabel": rng.uniform(0, 1, 3).astype(np.float32),
            "raw": rng.normal(size=5).astype(np.float32),
            "keypoints": FoundPoints(
                rng.uniform(0, 9, (2, 2)).astype(np.float32), rng.random(2).astype(np.float32)
            ),
            "objects": FoundObjects(seen.boxes, seen.scores, np.arange(count) % 2),
        }
        found.append((decoded, Sample(f"{index}.png", np.zeros((*SIZE, 3), np.uint8), labels)))
    return found


def carried(state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A state as it comes out of the file that a worker writes."""
    place = io.BytesIO()
    arrays: dict[str, Any] = dict(state)
    np.savez_compressed(place, **arrays)
    place.seek(0)
    with np.load(place, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("cuts", [(0, 11), (0, 5, 11), (0, 1, 2, 7, 11), (0, 0, 11)])
def test_parts_add_up_to_the_bits_of_the_whole(kind: str, cuts: tuple[int, ...]) -> None:
    shown = images()
    whole: Metric = METRICS[kind]()
    for decoded, sample in shown:
        whole.update(decoded, sample)
    total: Metric = METRICS[kind]()
    for begin, end in itertools.pairwise(cuts):
        part: Metric = METRICS[kind]()
        for decoded, sample in shown[begin:end]:
            part.update(decoded, sample)
        total.add(carried(part.state()))
    assert total.result() == whole.result()
    assert None not in whole.result().values.values()


@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_that_saw_nothing_adds_nothing(kind: str) -> None:
    empty: Metric = METRICS[kind]()
    empty.add(carried(METRICS[kind]().state()))
    assert empty.result() == METRICS[kind]().result()
