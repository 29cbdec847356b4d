"""COCO's JSON: boxes and key points, what is refused, what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgemtl.data.open import open_dataset
from edgemtl.errors import InputRefused

IMAGES = [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
CATEGORIES = [{"id": 1, "name": "person", "keypoints": ["nose", "ear"]}, {"id": 9, "name": "cup"}]
PERSON = {"image_id": 3, "category_id": 1, "bbox": [10, 5, 8, 20], "area": 90.0}
PERSON |= {"keypoints": [12, 8, 2, 0, 0, 0]}
CUP = {"image_id": 3, "category_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 1}


def written(path: Path, annotations: list[Any], categories: list[Any] = CATEGORIES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"images": IMAGES, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(data), "utf-8")


def images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((30, 40, 3), 90, np.uint8))


def test_boxes_and_key_points_of_two_files_are_one_image(tmp_path: Path) -> None:
    images(tmp_path / "val")
    bare = [{key: row[key] for key in row if key != "keypoints"} for row in CATEGORIES]
    written(tmp_path / "annotations" / "instances_val.json", [PERSON, CUP], bare)
    written(tmp_path / "annotations" / "person_keypoints_val.json", [PERSON])
    first, second = open_dataset(tmp_path, "val")
    assert (first.name, second.name) == ("a.png", "b.png")
    found = first.labels["objects"]
    assert found.classes == ("person", "cup") and found.crowd.tolist() == [False, True]
    assert found.boxes.tolist() == [[10, 5, 18, 25], [1, 2, 4, 6]]
    points = first.labels["keypoints"]
    assert points.points[0, 0].tolist() == [12, 8] and np.isnan(points.points[0, 1]).all()
    assert points.areas.tolist() == [90] and points.sides.tolist() == [20]
    assert len(second.labels["objects"]) == 0 and "keypoints" not in second.labels


def test_annotations_beside_the_images(tmp_path: Path) -> None:
    images(tmp_path / "val")
    written(tmp_path / "val" / "_annotations.coco.json", [PERSON])
    for root, split in ((tmp_path, "val"), (tmp_path / "val", None)):
        first, _ = open_dataset(root, split)
        assert first.labels["objects"].classes == ("person",)
        assert len(first.labels["keypoints"]) == 1


def test_annotations_that_make_no_sense_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    images(tmp_path / "val")
    bad: list[Any] = [
        {**PERSON, "bbox": [1, 2, 0, 4]},
        {**PERSON, "bbox": [1, 2]},
        {**PERSON, "image_id": 99},
        {**PERSON, "keypoints": [1, 2, 3]},
        {**PERSON, "keypoints": [float("nan")] * 6},
        None,
        {},
    ]
    written(tmp_path / "val" / "_annotations.coco.json", [*bad, CUP])
    found = open_dataset(tmp_path, "val")
    assert found.problems == [
        "_annotations.coco.json: 7 annotation(s) without a usable box, ignored"
    ]
    assert next(iter(found)).labels["objects"].classes == ("cup",)


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"images": 5}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    images(tmp_path / "val")
    (tmp_path / "val" / "_annotations.coco.json").write_text(text)
    with pytest.raises(InputRefused, match="not COCO's JSON"):
        open_dataset(tmp_path, "val")


def test_labels_change_the_fingerprint(tmp_path: Path) -> None:
    images(tmp_path / "val")
    prints = []
    for area in (90.0, 91.0):
        written(tmp_path / "val" / "_annotations.coco.json", [{**PERSON, "area": area}])
        prints.append(open_dataset(tmp_path, "val").fingerprint())
    assert prints[0] != prints[1]
