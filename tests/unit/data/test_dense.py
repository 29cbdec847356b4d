"""Dense folders: both layouts, broken labels, and labels on the canvas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data import write_dense_folder
from support.dense_family import CLASSES
from support.shared import data_folder

from edgemtl.data.dense import DenseFolder, map_on_canvas
from edgemtl.data.preprocess import InputSpec, View, inner_size, letterbox
from edgemtl.errors import ExitCode, InputRefused


def write_label(path: Path, label: np.ndarray) -> None:
    assert cv2.imwrite(str(path), label)


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    folder = DenseFolder.open(write_dense_folder(tmp_path / "set", count=3), "val")
    samples = list(folder)
    assert folder.name == "set/val" and folder.classes == CLASSES and folder.problems == []
    assert [sample.name for sample in samples] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    for sample in samples:
        classes, depth = sample.labels["segmentation"], sample.labels["depth"]
        assert classes.shape == depth.shape == sample.image.shape[:2] == (90, 120)
        assert depth.dtype == np.float32 and np.issubdtype(classes.dtype, np.signedinteger)
        assert (classes[:2] == -1).all() and classes[2:].min() == 0 and classes.max() == 3
        assert np.isnan(depth[:, :3]).all()
        assert np.nanmin(depth) > 0.5 and np.nanmax(depth) <= 3.0


@pytest.mark.parametrize("kind", ["segmentation", "depth"])
def test_one_kind_of_label_is_enough(tmp_path: Path, kind: str) -> None:
    folder = DenseFolder.open(write_dense_folder(tmp_path, kinds=(kind,)), "val")
    assert [set(sample.labels) for sample in folder] == [{kind}] * 4
    assert folder.problems == []


def test_values_by_hand(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path / "set", count=1, size=(2, 3), classes=("a", "b"), kinds=())
    for name, label in (
        ("labels", np.array([[0, 1, 255], [1, 0, 0]], np.uint8)),
        ("depth_mm", np.array([[0, 1, 65535], [1500, 2, 3]], np.uint16)),
    ):
        (root / "val" / name).mkdir()
        write_label(root / "val" / name / "0000.png", label)
    sample = DenseFolder.open(root, "val").load(0)
    assert sample is not None
    np.testing.assert_array_equal(sample.labels["segmentation"], [[0, 1, -1], [1, 0, 0]])
    np.testing.assert_allclose(
        sample.labels["depth"], [[np.nan, 0.001, 65.535], [1.5, 0.002, 0.003]], rtol=1e-6
    )


def test_broken_files_are_named_and_left_out(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path / "set", count=6) / "val"
    (root / "images" / "0000.jpg").write_bytes(b"nothing")
    (root / "labels" / "0001.png").write_bytes(b"")
    (root / "labels" / "0002.png").unlink()
    write_label(root / "labels" / "0003.png", np.zeros((4, 4), np.uint8))
    write_label(root / "labels" / "0004.png", np.zeros((90, 120, 3), np.uint8))
    write_label(root / "depth_mm" / "0005.png", np.ones((90, 120), np.uint8))
    folder = DenseFolder.open(tmp_path / "set", "val")
    assert folder.problems == ["0002.jpg: no segmentation label"]
    samples = {sample.name: set(sample.labels) for sample in folder}
    assert samples == {
        "0001.jpg": {"depth"},
        "0002.jpg": {"depth"},
        "0003.jpg": {"depth"},
        "0004.jpg": {"depth"},
        "0005.jpg": {"segmentation"},
    }
    assert folder.problems[1:] == [
        "0000.jpg: does not decode",
        "0001.jpg: its segmentation label does not decode",
        "0003.jpg: its segmentation label has another size",
        "0004.jpg: its segmentation label does not decode",
        "0005.jpg: its depth label does not decode",
    ]


def test_classes_without_a_name_are_named_and_ignored(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path, count=1)
    (root / "classes.json").write_text(json.dumps(["ground", "block"]), "utf-8")
    folder = DenseFolder.open(root, "val")
    (sample,) = folder
    assert sample.labels["segmentation"].max() == 1
    assert len(folder.problems) == 1 and "classes that have no name" in folder.problems[0]


def test_without_class_names_every_class_is_kept(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path, count=1)
    (root / "classes.json").unlink()
    folder = DenseFolder.open(root, "val")
    (sample,) = folder
    assert folder.classes == () and sample.labels["segmentation"].max() == 3


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", "[", "\x00"])
def test_unreadable_class_names_are_refused(tmp_path: Path, text: str) -> None:
    root = write_dense_folder(tmp_path, count=1)
    (root / "classes.json").write_text(text, "utf-8")
    with pytest.raises(InputRefused, match="class names") as refusal:
        DenseFolder.open(root, "val")
    assert refusal.value.where == str(root / "classes.json")


def test_missing_folders_are_refused_with_the_layout(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path / "set", count=1, kinds=())
    cases = {"no such data folder": tmp_path, "no labels": root}
    for reason, where in cases.items():
        with pytest.raises(InputRefused, match=reason) as refusal:
            DenseFolder.open(where, "val")
        assert "depth_mm" in (refusal.value.hint or "")
        assert refusal.value.exit_code == ExitCode.INPUT_REFUSED
    (root / "val" / "labels").mkdir()
    (root / "val" / "images" / "0000.jpg").unlink()
    with pytest.raises(InputRefused, match="no picture"):
        DenseFolder.open(root, "val")


def test_subset_and_fingerprint(tmp_path: Path) -> None:
    one, two = (DenseFolder.open(write_dense_folder(tmp_path / n), "val") for n in ("a", "b"))
    assert one.fingerprint() == two.fingerprint(), "where it lies does not matter"
    part = one.subset([2, 0])
    assert [sample.name for sample in part] == ["0002.jpg", "0000.jpg"]
    assert part.classes == one.classes and part.fingerprint() != one.fingerprint()
    label = two.entries[1].labels["depth"]
    label.write_bytes(label.read_bytes() + b"\0")
    assert one.fingerprint() != two.fingerprint()
    before = two.fingerprint()
    label.unlink()
    assert two.fingerprint() != before


@pytest.mark.parametrize("size", [(90, 120), (30, 200), (200, 30), (26, 14), (64, 96), (150, 600)])
def test_labels_lie_where_letterbox_puts_the_image(size: tuple[int, int]) -> None:
    """A picture painted by its own label: on the canvas colour and class still agree."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 4, (3, 4)).astype(np.uint8)
    label = cv2.resize(blocks, (size[1], size[0]), interpolation=cv2.INTER_NEAREST).astype(np.int64)
    image = np.repeat((label * 60 + 20).astype(np.uint8)[..., None], 3, axis=2)
    depth = label.astype(np.float32) + 1
    canvas, view = letterbox(image, InputSpec((64, 96), fill=0.0))
    classes, metres = map_on_canvas(label, view), map_on_canvas(depth, view)
    inside = classes >= 0
    assert classes.shape == (64, 96) and inside.sum() == np.prod(inner_size(size, view.scale))
    np.testing.assert_array_equal(inside, canvas[0] > 0)
    np.testing.assert_array_equal(np.isnan(metres), ~inside)
    np.testing.assert_array_equal(metres[inside], classes[inside] + 1)
    agree = np.abs(canvas[0] - (classes * 60 + 20))[inside] < 30
    # Where colours blend, within half a pixel of the picture or of the canvas, they may differ.
    reach = 2 * max(1, math.ceil(view.scale)) + 1
    blend = cv2.morphologyEx(classes.astype("i2"), cv2.MORPH_GRADIENT, np.ones((reach, reach))) != 0
    pure = ~blend[inside]
    assert agree[pure].all() and pure.sum() > 10


@given(st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=40)
def test_no_value_is_invented(height: int, width: int) -> None:
    label = np.random.default_rng(height * 200 + width).integers(0, 50, (height, width))
    _, view = letterbox(np.zeros((height, width, 3), np.uint8), InputSpec((64, 96)))
    moved = map_on_canvas(label, view)
    assert set(np.unique(moved)) <= set(np.unique(label)) | {-1}


def test_the_same_size_is_copied() -> None:
    label = np.random.default_rng(0).integers(-1, 5, (64, 96))
    _, view = letterbox(np.zeros((64, 96, 3), np.uint8), InputSpec((64, 96)))
    np.testing.assert_array_equal(map_on_canvas(label, view), label)


def test_a_canvas_pixel_takes_the_label_under_its_centre() -> None:
    """In a picture four times the canvas, pixel i covers columns 4 i to 4 i + 3."""
    rows, columns = np.mgrid[0:256, 0:384]
    _, view = letterbox(np.zeros((256, 384, 3), np.uint8), InputSpec((64, 96)))
    down, right = map_on_canvas(rows, view), map_on_canvas(columns, view)
    np.testing.assert_array_equal(down[:, 0], np.arange(64) * 4 + 2)
    np.testing.assert_array_equal(right[0], np.arange(96) * 4 + 2)


def test_vectors_per_pixel_move_too() -> None:
    _, view = letterbox(np.zeros((128, 96, 3), np.uint8), InputSpec((64, 96)))
    normals = np.zeros((128, 96, 3), np.float32)
    normals[..., 2] = 1
    moved = map_on_canvas(normals, view)
    assert moved.shape == (64, 96, 3)
    assert (moved[:, 24:72, 2] == 1).all() and np.isnan(moved[:, :24]).all()


def test_what_hangs_over_the_canvas_is_cut_off() -> None:
    """A picture of 40x40 enlarged to 80x80 and put 10 above and 6 left of a canvas of 64x96."""
    rows, columns = np.mgrid[0:40, 0:40]
    view = View(2.0, -6.0, -10.0, (40, 40), (64, 96))
    down, right = map_on_canvas(rows, view), map_on_canvas(columns, view)
    np.testing.assert_array_equal(down[:, 0], (np.arange(64) + 10) // 2)
    np.testing.assert_array_equal(right[0, :74], (np.arange(74) + 6) // 2)
    assert (right[:, 74:] == -1).all() and (right[:, :74] >= 0).all()


@pytest.mark.parametrize(
    ("name", "kind", "count"), [("people_parts", "segmentation", 100), ("indoor_rgbd", "depth", 40)]
)
def test_the_real_folders_are_read(name: str, kind: str, count: int) -> None:
    folder = DenseFolder.open(data_folder(name), "val")
    assert len(folder) == count and folder.problems == []
    sample = folder.load(0)
    assert sample is not None and set(sample.labels) == {kind} and folder.problems == []
    if kind == "depth":
        assert np.nanmin(sample.labels["depth"]) > 0.2 and np.nanmax(sample.labels["depth"]) < 15
    else:
        assert len(folder.classes) == 59 and sample.labels["segmentation"].max() > 0
