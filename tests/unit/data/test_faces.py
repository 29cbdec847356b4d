"""Face label files: what is read, and every way they can be wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.data import face_line, write_face_folder
from support.shared import data_folder

from edgemtl.data.faces import FaceFolder, parse_label_file
from edgemtl.data.images import ImageRefused, read_image
from edgemtl.errors import ExitCode, InputRefused

LINE = face_line((10, 20, 30, 40), np.arange(10.0).reshape(5, 2), (1, 2, 3))


def parse(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "label.txt"
    path.write_text(text, "utf-8")
    return parse_label_file(path, tmp_path / "images")


def test_a_line_by_hand(tmp_path: Path) -> None:
    """x y w h becomes corners; the file's pitch yaw roll becomes yaw pitch roll."""
    (entry,), problems = parse(tmp_path, f"# a.jpg\n{LINE}\n")
    assert problems == [] and entry.name == "a.jpg" and entry.path == tmp_path / "images" / "a.jpg"
    np.testing.assert_array_equal(entry.faces.boxes, [[10, 20, 40, 60]])
    np.testing.assert_array_equal(entry.faces.landmarks[0], np.arange(10).reshape(5, 2))
    np.testing.assert_array_equal(entry.faces.pose, [[2, 1, 3]])


def test_unlabelled_parts_are_nan(tmp_path: Path) -> None:
    (entry,), _ = parse(tmp_path, f"# a.jpg\n{face_line((1, 2, 3, 4))}\n")
    assert np.isnan(entry.faces.landmarks).all() and np.isnan(entry.faces.pose).all()
    only_nose = LINE.split()
    for column in (4, 5, 6):
        only_nose[column] = "-1"
    (entry,), _ = parse(tmp_path, f"# a.jpg\n{' '.join(only_nose)}\n")
    assert np.isnan(entry.faces.landmarks[0, 0]).all()
    assert np.isfinite(entry.faces.landmarks[0, 1:]).all()


@pytest.mark.parametrize("columns", [4, 20])
def test_shorter_lines_of_wider_face_are_read(tmp_path: Path, columns: int) -> None:
    (entry,), problems = parse(tmp_path, "# a/b.jpg\n" + " ".join(LINE.split()[:columns]))
    assert problems == [] and entry.path == tmp_path / "images" / "a" / "b.jpg"
    np.testing.assert_array_equal(entry.faces.boxes, [[10, 20, 40, 60]])
    assert np.isnan(entry.faces.pose).all()
    assert np.isnan(entry.faces.landmarks).all() == (columns == 4)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 2 3", "not a face line"),
        ("1 2 3 x", "not a face line"),
        (f"{LINE} 5", "not a face line"),
        ("hello", "not a face line"),
        ("1 2 0 4", "without area"),
        ("1 2 3 -4", "without area"),
        ("nan 2 3 4", "without area"),
        ("1 nan 3 4", "without area"),
        ("1 2 nan 4", "without area"),
        ("inf 2 3 4", "without area"),
        ("1 2 inf 4", "without area"),
        ("1e39 2 3 4", "without area"),
        ("1 2 1e300 4", "without area"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_kept(tmp_path: Path, line: str, reason: str) -> None:
    entries, problems = parse(tmp_path, f"# a.jpg\n{LINE}\n{line}\n{LINE}\n\n# b.jpg\n{LINE}\n")
    assert [len(entry.faces) for entry in entries] == [2, 1]
    assert len(problems) == 1 and problems[0].startswith("label.txt:3:") and reason in problems[0]
    assert all(np.isfinite(entry.faces.boxes).all() for entry in entries)


def test_a_face_before_any_image_is_named(tmp_path: Path) -> None:
    entries, problems = parse(tmp_path, f"{LINE}\n# a.jpg\n")
    assert len(entries) == 1 and len(entries[0].faces) == 0
    assert problems == ["label.txt:1: not a face line, ignored"]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.jpg", "a/../../b.jpg", "", "a\0b.jpg", "x" * 300, "é" * 200],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    entries, problems = parse(tmp_path, f"# {name}\n{LINE}\n# good.jpg\n{LINE}\n")
    assert [entry.name for entry in entries] == ["good.jpg"]
    assert len(problems) == 1 and "not a file name inside" in problems[0]
    assert len(problems[0]) < 200


@pytest.mark.parametrize("content", [b"", b"\n\n", b"1 2 3 4\n", b"\xff\xfe\x00binary"])
def test_a_file_without_images_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "label.txt"
    path.write_bytes(content)
    with pytest.raises(InputRefused) as refusal:
        parse_label_file(path, tmp_path)
    assert refusal.value.where == str(path) and refusal.value.exit_code == ExitCode.INPUT_REFUSED


def test_missing_files_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no label file") as refusal:
        parse_label_file(tmp_path / "label.txt", tmp_path)
    assert refusal.value.hint
    with pytest.raises(InputRefused, match="no such data folder"):
        FaceFolder.open(tmp_path, "val")
    (tmp_path / "val" / "label.txt").mkdir(parents=True)
    with pytest.raises(InputRefused, match="cannot be read"):
        FaceFolder.open(tmp_path, "val")


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    folder = FaceFolder.open(write_face_folder(tmp_path / "set", count=5), "val")
    samples = list(folder)
    assert len(folder) == 5 and folder.name == "set/val" and folder.problems == []
    assert [sample.name for sample in samples] == [f"{i:04d}.jpg" for i in range(5)]
    assert [len(sample.labels["faces"]) for sample in samples] == [0, 1, 2, 0, 1]
    assert samples[0].image.shape == (120, 160, 3)


def test_images_that_do_not_decode_are_named_and_skipped(tmp_path: Path) -> None:
    root = write_face_folder(tmp_path / "set", count=5)
    images = root / "val" / "images"
    (images / "0000.jpg").write_bytes(b"")
    (images / "0001.jpg").write_bytes(b"no picture at all")
    (images / "0002.jpg").unlink()
    whole = (images / "0003.jpg").read_bytes()
    (images / "0003.jpg").write_bytes(whole[:100])
    folder = FaceFolder.open(root, "val")
    assert [sample.name for sample in folder] == ["0004.jpg"]
    assert folder.problems == [
        "0000.jpg: is empty",
        "0001.jpg: does not decode",
        "0002.jpg: is missing",
        "0003.jpg: does not decode",
    ]
    assert folder.load(0) is None


def test_a_folder_in_place_of_a_image_is_named(tmp_path: Path) -> None:
    root = write_face_folder(tmp_path / "set", count=1)
    (root / "val" / "images" / "0000.jpg").unlink()
    (root / "val" / "images" / "0000.jpg").mkdir()
    folder = FaceFolder.open(root, "val")
    assert list(folder) == [] and folder.problems == ["0000.jpg: is not a regular file"]


def test_faces_outside_the_image_are_named_and_left_out(tmp_path: Path) -> None:
    root = write_face_folder(tmp_path / "set", count=1, size=(120, 160))
    boxes = [(10, 10, 20, 20), (200, 10, 20, 20), (-30, 10, 20, 20), (10, -60, 20, 50),
             (10, 121, 5, 5), (-10, -10, 30, 30), (150, 110, 90, 90)]  # fmt: skip
    lines = "\n".join(face_line(box) for box in boxes)
    (root / "val" / "label.txt").write_text(f"# 0000.jpg\n{lines}\n", "utf-8")
    folder = FaceFolder.open(root, "val")
    (sample,) = folder
    np.testing.assert_array_equal(
        sample.labels["faces"].boxes, [[10, 10, 30, 30], [-10, -10, 20, 20], [150, 110, 240, 200]]
    )
    assert folder.problems == ["0000.jpg: 4 face(s) outside the picture"]


def test_a_subset_keeps_the_order_it_is_given(tmp_path: Path) -> None:
    folder = FaceFolder.open(write_face_folder(tmp_path / "set", count=5), "val")
    assert [sample.name for sample in folder.subset([3, 1])] == ["0003.jpg", "0001.jpg"]


def test_the_fingerprint_sees_everything_that_matters(tmp_path: Path) -> None:
    def fingerprint(root: Path) -> str:
        return FaceFolder.open(root, "val").fingerprint()

    one, two = (write_face_folder(tmp_path / name, count=3) for name in ("one", "two"))
    assert fingerprint(one) == fingerprint(two), "where it lies does not matter"
    whole = FaceFolder.open(one, "val")
    assert whole.subset([0, 1]).fingerprint() != whole.fingerprint()
    assert whole.subset([1, 0, 2]).fingerprint() != whole.fingerprint()
    label = two / "val" / "label.txt"
    label.write_text(label.read_text("utf-8").replace("\n-1 ", "\n-2 ", 1) + LINE + "\n", "utf-8")
    changed = fingerprint(two)
    assert changed != fingerprint(one)
    image = two / "val" / "images" / "0001.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert fingerprint(two) != changed
    before = fingerprint(two)
    image.unlink()
    assert fingerprint(two) != before


@pytest.mark.parametrize("grey", [False, True])
def test_images_come_out_as_three_channels(tmp_path: Path, grey: bool) -> None:
    image = np.full((5, 7), 90, np.uint8) if grey else np.full((5, 7, 4), 90, np.uint8)
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), image)
    decoded = read_image(path)
    assert decoded is not None and decoded.shape == (5, 7, 3) and decoded.dtype == np.uint8
    assert (decoded == 90).all()
    with pytest.raises(ImageRefused, match="is missing"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("name", "split", "count"), [("faces_crowd", "val", 120), ("faces_landmarks", "val", 460)]
)
def test_the_real_label_files_are_read_whole(name: str, split: str, count: int) -> None:
    folder = FaceFolder.open(data_folder(name), split)
    assert len(folder) == count and folder.problems == []
    sample = folder.load(0)
    assert sample is not None and len(sample.labels["faces"]) > 0
