"""WIDER FACE's own label files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.data.wider import open_wider, parse_annotations
from edgemtl.errors import InputRefused

GOOD = """0--Parade/a.jpg
3
10 20 30 40 0 0 0 0 0 0
1 2 3 4 2 1 1 1 2 1
5 6 0 7 0 0 0 0 0 0
1--Handshaking/empty.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/b.jpg
1
8 9 10 11 0 0 0 0 1 0
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "wider_face_val_bbx_gt.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _dataset(root: Path, text: str) -> Path:
    _write(root / "wider_face_split", text)
    for name in ("0--Parade/a.jpg", "1--Handshaking/empty.jpg", "1--Handshaking/b.jpg"):
        path = root / "WIDER_val" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((100, 120, 3), 90, np.uint8))
    return root


def test_official_layout(tmp_path: Path) -> None:
    dataset = open_wider(_dataset(tmp_path, GOOD), "val")
    samples = list(dataset)
    assert [sample.name for sample in samples] == [
        "0--Parade/a.jpg",
        "1--Handshaking/empty.jpg",
        "1--Handshaking/b.jpg",
    ]
    faces = samples[0].labels["faces"]
    np.testing.assert_array_equal(faces.boxes, [[10, 20, 40, 60]])
    assert np.isnan(faces.landmarks).all() and np.isnan(faces.pose).all()
    assert faces.landmarks.shape == (1, 5, 2) and faces.pose.shape == (1, 3)
    assert len(samples[1].labels["faces"]) == 0
    np.testing.assert_array_equal(samples[2].labels["faces"].boxes, [[8, 9, 18, 20]])
    assert dataset.problems == [
        "wider_face_val_bbx_gt.txt: 1 box(es) without area, not used",
        "wider_face_val_bbx_gt.txt: 1 face(s) marked invalid, not used",
    ]


def test_count_of_zero_without_the_row_of_zeros(tmp_path: Path) -> None:
    text = "a/x.jpg\n0\na/y.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n"
    entries, problems = parse_annotations(_write(tmp_path, text), tmp_path)
    assert [(entry.name, len(entry.faces)) for entry in entries] == [("a/x.jpg", 0), ("a/y.jpg", 1)]
    assert problems == []


def test_zero_row_at_the_end_and_blank_lines(tmp_path: Path) -> None:
    text = "\na/x.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n\n"
    entries, problems = parse_annotations(_write(tmp_path, text), tmp_path)
    assert [(entry.name, len(entry.faces)) for entry in entries] == [("a/x.jpg", 0)]
    assert problems == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no picture"),
        ("a.jpg\nmany\n", "line 2"),
        ("a.jpg\n-1\n", "line 2"),
        ("a.jpg\n1\n1 2 3\n", "line 3"),
        ("a.jpg\n1\n1 2 3 nan 0 0 0 0 0 0\n", "line 3"),
        ("a.jpg\n1\n1 2 3 1e30 0 0 0 0 0 0\n", "line 3"),
        ("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n", "ends before"),
        ("a.jpg\n99999999999\n1 2 3 4 0 0 0 0 0 0\n", "ends before"),
        ("a.jpg", "line 2"),
    ],
)
def test_broken_files_are_refused_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputRefused, match=said):
        parse_annotations(_write(tmp_path, text), tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "wider_face_val_bbx_gt.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputRefused, match="cannot be read"):
        parse_annotations(path, tmp_path)


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    text = "../../etc/passwd\n0\n/etc/passwd\n0\na/x.jpg\n0\n"
    entries, problems = parse_annotations(_write(tmp_path, text), tmp_path)
    assert [entry.name for entry in entries] == ["a/x.jpg"]
    assert len(problems) == 2


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"wider_face_val_bbx_gt\.txt"):
        open_wider(tmp_path, "val")
    _write(tmp_path, GOOD)
    with pytest.raises(InputRefused, match="WIDER_val/images"):
        open_wider(tmp_path, "val")


def test_missing_image_is_named_not_fatal(tmp_path: Path) -> None:
    dataset = open_wider(_dataset(tmp_path, GOOD), "val")
    (tmp_path / "WIDER_val" / "images" / "0--Parade" / "a.jpg").unlink()
    assert len(list(dataset)) == 2
    assert dataset.problems[-1] == "0--Parade/a.jpg: is missing"
