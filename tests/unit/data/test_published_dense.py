"""NYUD-v2, PASCAL-Context, people_parts and indoor_rgbd: small folders of each layout."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.shared import data_folder

from edgemtl.data.open import open_dataset
from edgemtl.data.published_dense import BODY_PARTS, body_parts, read_indexed
from edgemtl.errors import InputRefused

CLASSES = np.array([[0, 1, 1, 40], [0, 2, 2, 40], [5, 5, 2, 255]], np.uint8)


def written(path: Path, image: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def listed(root: Path, lists: str, images: str, names: tuple[str, ...] = ("a", "b")) -> None:
    for name in names:
        written(root / images / f"{name}.jpg", np.full((3, 4, 3), 90, np.uint8))
    (root / lists).mkdir(parents=True)
    (root / lists / "val.txt").write_text("\n".join(names) + "\n", "utf-8")


def palette_png(path: Path, classes: NDArray[np.uint8]) -> None:
    """A palette PNG made by hand; entry i is the colour (i, 255 - i, 7)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    height, width = classes.shape
    rows = b"".join(b"\0" + row.tobytes() for row in classes)
    colours = bytes(v for i in range(256) for v in (i, 255 - i, 7))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", colours)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_nyud(tmp_path: Path) -> None:
    listed(tmp_path, "gt_sets", "images")
    written(tmp_path / "segmentation" / "a.png", np.where(CLASSES == 255, 3, CLASSES))
    depth = np.linspace(0, 5, 12, dtype=np.float32).reshape(3, 4)
    vectors = np.zeros((3, 4, 3), np.float32)
    vectors[1, 2] = (0, 3, 4)
    for kind, array in (("depth", depth), ("normals", vectors), ("edge", depth > 4)):
        (tmp_path / kind).mkdir()
        np.save(tmp_path / kind / "a.npy", array)
    dataset = open_dataset(tmp_path, "val")
    first, second = list(dataset)
    assert second.labels == {} and set(first.labels) == {
        "segmentation",
        "depth",
        "normals",
        "edges",
    }
    assert first.labels["segmentation"].tolist() == [[-1, 0, 0, 39], [-1, 1, 1, 39], [4, 4, 1, 2]]
    assert np.isnan(first.labels["depth"][0, 0]) and first.labels["depth"][2, 3] == 5
    np.testing.assert_allclose(first.labels["normals"][1, 2], (0, 0.6, 0.8), atol=1e-6)
    assert np.isnan(first.labels["normals"][0, 0]).all()
    assert first.labels["edges"].sum() == 3
    assert dataset.problems == []


def test_a_broken_array_is_named_and_left_out(tmp_path: Path) -> None:
    listed(tmp_path, "gt_sets", "images")
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "a.npy").write_bytes(b"\x93NUMPY nothing")
    np.save(tmp_path / "depth" / "b.npy", np.array([{"code": "never run"}], dtype=object))
    dataset = open_dataset(tmp_path, "val")
    assert [sample.labels for sample in dataset] == [{}, {}]
    assert [problem.split(":")[0] for problem in dataset.problems] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("line", ["../a", "/etc/passwd", "x/y"])
def test_a_list_cannot_leave_its_folder(line: str, tmp_path: Path) -> None:
    listed(tmp_path, "gt_sets", "images")
    (tmp_path / "gt_sets" / "val.txt").write_text(line, "utf-8")
    with pytest.raises(InputRefused, match="not the name"):
        open_dataset(tmp_path, "val")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    listed(tmp_path, "gt_sets", "images")
    (tmp_path / "gt_sets" / "val.txt").write_text("\n", "utf-8")
    with pytest.raises(InputRefused, match="empty"):
        open_dataset(tmp_path, "val")


def test_pascal_context(tmp_path: Path) -> None:
    listed(tmp_path, "ImageSets/Context", "JPEGImages")
    palette_png(tmp_path / "semseg" / "VOC12" / "a.png", CLASSES)
    written(tmp_path / "semseg" / "pascal-context" / "a.png", CLASSES * 0)
    written(tmp_path / "semseg" / "pascal-context" / "b.png", CLASSES)
    written(tmp_path / "human_parts" / "a.png", CLASSES % 7)
    written(tmp_path / "sal_distill" / "a.png", CLASSES)
    colours = np.full((3, 4, 3), 127, np.uint8)
    colours[0, 0] = (255, 128, 128)  # blue, so z
    written(tmp_path / "normals_distill" / "a.png", colours)
    first, second = list(open_dataset(tmp_path, "val"))
    expected = np.where(CLASSES == 255, -1, CLASSES.astype(int)).tolist()
    assert first.labels["segmentation"].tolist() == expected
    assert second.labels["segmentation"].tolist() == expected and len(second.labels) == 1
    assert first.labels["parts"].tolist() == (CLASSES % 7).tolist()
    assert first.labels["saliency"].tolist() == (CLASSES > 127).astype(int).tolist()
    np.testing.assert_allclose(first.labels["normals"][0, 0], (0, 0, 1), atol=0.01)
    assert np.isnan(first.labels["normals"][1, 1]).all()


def test_a_coloured_image_is_no_label(tmp_path: Path) -> None:
    written(tmp_path / "x.png", np.zeros((3, 4, 3), np.uint8))
    assert read_indexed(tmp_path / "x.png") is None
    assert read_indexed(tmp_path / "absent.png") is None


def test_people_parts(tmp_path: Path) -> None:
    written(tmp_path / "val" / "images" / "a.jpg", np.full((3, 4, 3), 90, np.uint8))
    written(tmp_path / "val" / "labels" / "a.png", np.where(CLASSES == 40, 3, CLASSES))
    (tmp_path / "classes.json").write_text(json.dumps(["null", "a", "b", "c", "d", "e"]))
    (sample,) = open_dataset(tmp_path, "val")
    assert sample.labels["saliency"].tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, -1]]
    assert sample.labels["edges"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, -1]]


def test_other_folders_of_classes_have_no_person_in_them(tmp_path: Path) -> None:
    written(tmp_path / "val" / "images" / "a.jpg", np.full((3, 4, 3), 90, np.uint8))
    written(tmp_path / "val" / "labels" / "a.png", CLASSES % 3)
    (sample,) = open_dataset(tmp_path, "val")
    assert set(sample.labels) == {"segmentation"}


def test_indoor_rgbd(tmp_path: Path) -> None:
    root = tmp_path / "indoor_rgbd"
    written(root / "val" / "images" / "a.png", np.full((24, 32, 3), 90, np.uint8))
    written(root / "val" / "depth_mm" / "a.png", np.full((24, 32), 1500, np.uint16))
    (sample,) = open_dataset(root, "val")
    np.testing.assert_allclose(sample.labels["normals"][12, 16], (0, 0, 1), atol=1e-6)


def test_pieces_of_clothing_become_parts_of_the_body() -> None:
    names = ("null", "skin", "hair", "jeans", "socks", "dress", "bag", "boots", "t-shirt")
    pieces = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, -1]])
    parts = body_parts(pieces, names)
    assert [[BODY_PARTS[p] if p >= 0 else "ignored" for p in row] for row in parts] == [
        ["background", "skin", "hair", "legs", "legs"],
        ["whole body", "accessories", "feet", "upper body", "ignored"],
    ]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("people_parts", {"segmentation", "parts", "saliency", "edges"}),
        ("indoor_rgbd", {"depth", "normals"}),
    ],
)
def test_real_data(name: str, kinds: set[str]) -> None:
    dataset = open_dataset(data_folder(name), "val").subset([0])
    (sample,) = dataset
    assert set(sample.labels) == kinds
    if name == "indoor_rgbd":
        normals = sample.labels["normals"]
        known = np.isfinite(normals).all(axis=-1)
        assert known.mean() > 0.5
        assert (normals[known][:, 2] > 0).mean() > 0.95, "what is seen faces the camera"
    else:
        assert 0.05 < sample.labels["saliency"].mean() < 0.9
        assert 0 < sample.labels["edges"].mean() < 0.1
