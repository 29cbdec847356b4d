"""Body parts and edges from MATLAB files as PASCAL-Part and PASCAL-Context have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgemtl.data.open import open_dataset
from edgemtl.data.pascal_mat import HUMAN_PARTS, read_human_parts, read_label_map_edges

SIZE = (12, 16)


def rectangle(top: int, left: int, bottom: int, right: int) -> Any:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def objects(*described: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """What MATLAB saves: a struct with an array of structs, each with an array of structs."""
    kinds = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    things = np.zeros((1, len(described)), kinds)
    for index, (number, parts) in enumerate(described):
        listed = np.zeros((1, len(parts)), [("part_name", object), ("mask", object)])
        for position, (name, mask) in enumerate(parts.items()):
            listed[0, position] = (name, mask)
        things[0, index] = ("person", number, rectangle(0, 0, 12, 16), listed)
    return {"anno": {"imname": "a", "objects": things}}


def test_the_parts_of_persons_are_joined_to_six(tmp_path: Path) -> None:
    person = {
        "head": rectangle(0, 0, 4, 4),
        "leye": rectangle(1, 1, 2, 2),
        "neck": rectangle(4, 1, 5, 3),
        "torso": rectangle(5, 0, 8, 4),
        "rlarm": rectangle(5, 4, 8, 6),
        "lfoot": rectangle(10, 0, 12, 2),
        "keyboard": rectangle(0, 10, 2, 12),
    }
    dog = {"head": rectangle(0, 12, 4, 16)}
    savemat(tmp_path / "a.mat", objects((15, person), (12, dog)))
    labels = read_human_parts(tmp_path / "a.mat")
    assert labels is not None and labels.shape == SIZE
    names = [[HUMAN_PARTS[label] for label in row] for row in labels]
    assert names[1][1] == "head" and names[4][1] == "torso" and names[6][0] == "torso"
    assert names[6][5] == "lower arm" and names[11][0] == "lower leg"
    assert names[0][13] == "background", "a dog has no human head"
    assert names[0][10] == "background", "what is no known part is not labelled"


def test_one_object_with_one_part(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", objects((15, {"ruleg": rectangle(2, 2, 4, 4)})))
    labels = read_human_parts(tmp_path / "a.mat")
    assert labels is not None
    assert sorted(np.unique(labels)) == [0, HUMAN_PARTS.index("upper leg")]


def test_edges_lie_where_the_label_map_changes(tmp_path: Path) -> None:
    classes = np.zeros(SIZE, np.uint16)
    classes[:, 8:] = 300
    savemat(tmp_path / "a.mat", {"LabelMap": classes})
    edges = read_label_map_edges(tmp_path / "a.mat")
    assert edges is not None
    assert (edges[:, 7] == 1).all() and edges.sum() == SIZE[0]


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file of nothing", b"\x89PNG"])
def test_other_files_are_not_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    assert read_human_parts(tmp_path / "a.mat") is None
    assert read_label_map_edges(tmp_path / "a.mat") is None
    savemat(tmp_path / "b.mat", {"LabelMap": np.zeros((2, 2, 2)), "anno": 3})
    assert read_human_parts(tmp_path / "b.mat") is None
    assert read_label_map_edges(tmp_path / "b.mat") is None


def test_the_layout_finds_both(tmp_path: Path) -> None:
    for folder in ("ImageSets/Context", "JPEGImages", "human_parts", "pascal-context/trainval"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Context/val.txt").write_text("a\n")
    cv2.imwrite(str(tmp_path / "JPEGImages/a.jpg"), np.full((*SIZE, 3), 90, np.uint8))
    savemat(tmp_path / "human_parts/a.mat", objects((15, {"head": rectangle(0, 0, 2, 2)})))
    savemat(
        tmp_path / "pascal-context/trainval/a.mat", {"LabelMap": np.arange(16) // 4 * np.ones(SIZE)}
    )
    dataset = open_dataset(tmp_path, "val")
    (sample,) = dataset
    assert set(sample.labels) == {"parts", "edges"} and dataset.problems == []
    assert sample.labels["parts"].sum() == 4 and sample.labels["edges"].sum() == 36
