"""AFLW2000-3D: pictures with MATLAB label files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgemtl.data.aflw2000 import open_aflw2000, read_label
from edgemtl.errors import InputRefused


def _points() -> np.ndarray:
    points = np.zeros((3, 68), np.float32)
    points[0] = np.linspace(100, 200, 68)
    points[1] = np.linspace(150, 270, 68)
    points[0, 36:42], points[1, 36:42] = [118, 120, 122, 122, 120, 118], 180
    points[0, 42:48], points[1, 42:48] = [178, 180, 182, 182, 180, 178], 182
    points[:2, 30], points[:2, 48], points[:2, 54] = (150, 210), (130, 240), (170, 241)
    return points


def _write(
    root: Path, name: str, angles_deg: tuple[float, float, float] = (5.0, 30.0, -10.0)
) -> Path:
    cv2.imwrite(str(root / f"{name}.jpg"), np.full((450, 450, 3), 90, np.uint8))
    pose = np.zeros((1, 7), np.float32)
    pose[0, :3] = np.deg2rad(angles_deg)
    path = root / f"{name}.mat"
    savemat(path, {"Pose_Para": pose, "pt3d_68": _points(), "other": np.zeros(3)})
    return path


def test_one_face_per_image(tmp_path: Path) -> None:
    _write(tmp_path, "image00004")
    _write(tmp_path, "image00002")
    dataset = open_aflw2000(tmp_path)
    samples = list(dataset)
    assert [sample.name for sample in samples] == ["image00002.jpg", "image00004.jpg"]
    faces = samples[0].labels["faces"]
    np.testing.assert_allclose(faces.pose, [[30, 5, -10]], atol=1e-4)  # yaw pitch roll
    np.testing.assert_allclose(faces.boxes, [[100, 150, 200, 270]], atol=1e-3)
    expected = [[[120, 180], [180, 182], [150, 210], [130, 240], [170, 241]]]
    np.testing.assert_allclose(faces.landmarks, expected, atol=1e-3)
    assert dataset.problems == []
    assert len(dataset.fingerprint()) == 64


@pytest.mark.parametrize("angles", [(0, 120, 0), (-100, 0, 0), (0, 0, 99.5)])
def test_far_turned_faces_are_left_out_and_named(
    tmp_path: Path, angles: tuple[float, float, float]
) -> None:
    _write(tmp_path, "far", angles)
    _write(tmp_path, "near", (98, -98, 98))
    dataset = open_aflw2000(tmp_path)
    assert [entry.name for entry in dataset.entries] == ["near.jpg"]
    assert len(dataset.problems) == 1
    assert dataset.problems[0].startswith("far.mat: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a mat file at all",
        b"MATLAB 5.0 MAT-file" + b" " * 105 + b"\x00\x01IM" + b"\xff" * 64,
    ],
)
def test_broken_label_files_are_named_not_fatal(tmp_path: Path, content: bytes) -> None:
    _write(tmp_path, "good")
    _write(tmp_path, "bad").write_bytes(content)
    dataset = open_aflw2000(tmp_path)
    assert [entry.name for entry in dataset.entries] == ["good.jpg"]
    assert dataset.problems[0].startswith("bad.mat: not a readable MATLAB file")


def test_truncated_label_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "cut")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        try:
            read_label(path)
        except InputRefused:
            continue  # nothing else may come out; a cut behind the two fields is readable


@pytest.mark.parametrize(
    "fields",
    [
        {"pt3d_68": _points()},
        {"Pose_Para": np.zeros((1, 7))},
        {"Pose_Para": np.zeros((1, 2)), "pt3d_68": _points()},
        {"Pose_Para": np.zeros((1, 7)), "pt3d_68": np.zeros((3, 21))},
        {"Pose_Para": np.full((1, 7), np.nan), "pt3d_68": _points()},
        {"Pose_Para": np.zeros((1, 7)), "pt3d_68": np.full((3, 68), np.nan)},
        {"Pose_Para": np.zeros((1, 7)), "pt3d_68": np.zeros((3, 68))},
        {"Pose_Para": "text", "pt3d_68": _points()},
        {"Pose_Para": {"a": 1}, "pt3d_68": _points()},
    ],
)
def test_fields_that_do_not_fit(tmp_path: Path, fields: dict[str, object]) -> None:
    path = tmp_path / "x.mat"
    savemat(path, fields)
    with pytest.raises(InputRefused):
        read_label(path)


def test_oversized_label_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "x")
    with path.open("ab") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(InputRefused, match="too large"):
        read_label(path)


def test_empty_or_missing_folder(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputRefused, match="no labelled picture"):
            open_aflw2000(root)
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputRefused, match="no such label file"):
        open_aflw2000(tmp_path)
