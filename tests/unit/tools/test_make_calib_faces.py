"""The renderer of synthetic faces: determinism, labels, sign conventions, refusals, the set."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "calib_data" / "faces"
# Sign of the correlation of each cue (see `cues`) with its angle, in the AFLW2000 convention.
EXPECTED_SIGNS = {"yaw": -1, "pitch": -1, "roll": 1}


def _load() -> ModuleType:
    path = ROOT / "tools" / "make_calib_faces.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("make_calib_faces", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load()


def read_labels(path: Path) -> dict[str, list[list[float]]]:
    """Parse a label file into rows per image."""
    rows: dict[str, list[list[float]]] = {}
    name = ""
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("# "):
            name = line[2:]
            assert name not in rows
            rows[name] = []
        else:
            rows[name].append([float(v) for v in line.split(" ")])
    return rows


def labelled(rows: dict[str, list[list[float]]]) -> NDArray[np.float64]:
    """All faces with five landmarks and a box large enough to measure."""
    flat = [r for faces in rows.values() for r in faces]
    return np.array([r for r in flat if len(r) == 23 and min(r[6:19:3]) >= 0 and r[2] > 30])


def cues(faces: NDArray[np.float64]) -> dict[str, float]:
    """Correlation of one landmark cue per axis with the labelled angle."""
    x, y = faces[:, 4:19:3], faces[:, 5:19:3]
    eyes = np.stack([x[:, :2].mean(axis=1), y[:, :2].mean(axis=1)], axis=-1)
    mouth = np.stack([x[:, 3:].mean(axis=1), y[:, 3:].mean(axis=1)], axis=-1)
    nose = np.stack([x[:, 2], y[:, 2]], axis=-1)
    down = mouth - eyes
    height = np.maximum(np.hypot(*down.T), 1.0)
    sideways = (nose - eyes)[:, 0] / height
    along = ((nose - eyes) * down).sum(axis=1) / height**2
    tilt = np.arctan2(y[:, 1] - y[:, 0], x[:, 1] - x[:, 0])
    pitch, yaw, roll = faces[:, 20], faces[:, 21], faces[:, 22]
    mild = (np.abs(yaw) < 30) & (np.abs(roll) < 20)
    return {
        "yaw": float(np.corrcoef(sideways[np.abs(roll) < 20], yaw[np.abs(roll) < 20])[0, 1]),
        "pitch": float(np.corrcoef(along[mild], pitch[mild])[0, 1]),
        "roll": float(np.corrcoef(tilt[np.abs(yaw) < 30], roll[np.abs(yaw) < 30])[0, 1]),
    }


def test_same_state_gives_same_pixels_and_labels() -> None:
    first, labels = tool.render_image(tool.image_rng(5, "train", 3))
    again, same = tool.render_image(tool.image_rng(5, "train", 3))
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    np.testing.assert_array_equal(first, again)
    assert [f.line() for f in labels] == [f.line() for f in same]
    other, _ = tool.render_image(tool.image_rng(5, "val", 3))
    assert other.shape != first.shape or not np.array_equal(other, first)


def test_tool_writes_identical_files(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        out = tmp_path / name
        assert tool.main(["--output", str(out), "--train", "2", "--val", "1", "--seed", "9"]) == 0
        files = sorted(p for p in out.rglob("*") if p.is_file())
        contents.append([(p.relative_to(out).as_posix(), p.read_bytes()) for p in files])
        assert sorted(p.name for p in out.iterdir()) == ["train", "val"]
    assert contents[0] == contents[1]
    assert [name for name, _ in contents[0]] == [
        "train/images/train_00000.jpg",
        "train/images/train_00001.jpg",
        "train/label.txt",
        "val/images/val_00000.jpg",
        "val/label.txt",
    ]


def test_label_line_has_23_columns() -> None:
    marks = tuple((float(i), i + 0.5) for i in range(5))
    line = tool.FaceLabel((1.0, 2.0, 30.0, 40.0), marks, -3.25, 4.5, 6.0).line()
    assert line == (
        "1.0 2.0 30.0 40.0 0.00 0.50 0.0 1.00 1.50 0.0 2.00 2.50 0.0 3.00 3.50 0.0 "
        "4.00 4.50 0.0 1 -3.25 4.50 6.00"
    )
    assert len(line.split(" ")) == 23


@pytest.mark.parametrize("axis", ["pitch", "yaw", "roll"])
def test_rotation_signs(axis: str) -> None:
    from calibfaces.head import rotation

    angles = {"pitch": 0.0, "yaw": 0.0, "roll": 0.0, axis: 20.0}
    turn = rotation(angles["pitch"], angles["yaw"], angles["roll"])
    nose, right_eye = turn @ [0.0, 0.0, 1.0], turn @ [1.0, 0.0, 0.0]
    if axis == "pitch":
        assert nose[1] > 0.3  # looks up
    elif axis == "yaw":
        assert nose[0] < -0.3  # turns to the image's left
    else:
        assert right_eye[1] < -0.3  # tilts clockwise in the image


def _check_committed(split: str) -> tuple[int, NDArray[np.float64]]:
    import cv2

    folder = COMMITTED / split
    rows = read_labels(folder / "label.txt")
    assert sorted(rows) == sorted(p.name for p in (folder / "images").iterdir())
    for name, faces in rows.items():
        image = cv2.imread(str(folder / "images" / name))
        assert image is not None
        height, width = image.shape[:2]
        assert 1 <= len(faces) <= 6
        for face in faces:
            assert len(face) == 23
            x, y, w, h = face[:4]
            inside_w = min(x + w, width) - max(x, 0)
            inside_h = min(y + h, height) - max(y, 0)
            assert inside_w * inside_h > 0.6 * w * h
            assert 10 < w < 260 and 10 < h < 290
            assert face[6:19:3] == [0.0] * 5 and face[19] == 1.0
            assert abs(face[20]) <= 35 and abs(face[21]) <= 75 and abs(face[22]) <= 40
    return len(rows), labelled(rows)


def test_committed_set_parses_and_fits() -> None:
    parts = [_check_committed(split) for split in ("train", "val")]
    assert 180 <= sum(count for count, _ in parts) <= 220
    size = sum(p.stat().st_size for p in COMMITTED.rglob("*") if p.is_file())
    assert size < 6_000_000
    faces = np.concatenate([f for _, f in parts])
    px, py = faces[:, 4:19:3], faces[:, 5:19:3]
    x, y, w, h = (faces[:, k : k + 1] for k in range(4))
    inside = (px >= x) & (px <= x + w) & (py >= y) & (py <= y + h)
    assert inside.mean() > 0.97
    measured = cues(faces)
    for axis, sign in EXPECTED_SIGNS.items():
        assert measured[axis] * sign > 0.7, (axis, measured[axis])


def test_real_labels_have_the_same_signs() -> None:
    roots = [Path(os.environ["EDGEMTL_DATA"])] if "EDGEMTL_DATA" in os.environ else []
    roots.append(ROOT.parent / "shared" / "data")
    found = [r / "faces_landmarks" / "train" / "label.txt" for r in roots]
    found = [p for p in found if p.is_file()]
    if not found:
        pytest.skip("no real labelled faces: set EDGEMTL_DATA to a folder with faces_landmarks")
    measured = cues(labelled(read_labels(found[0])))
    for axis, sign in EXPECTED_SIGNS.items():
        assert measured[axis] * sign > 0.6, (axis, measured[axis])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "-1"], "--train must be between"),
        (["--val", "9999999"], "--val must be between"),
        (["--train", "0", "--val", "0"], "nothing to render"),
        (["--seed", "-4"], "--seed must not be negative"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [["--train", "many"], ["--train", "1.5"], ["--colour", "x"]])
def test_unreadable_arguments_are_refused_in_one_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--output", str(tmp_path / "new"), *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_full_folder_needs_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = tmp_path / "note.txt"
    note.write_text("keep me")
    arguments = ["--output", str(tmp_path), "--train", "1", "--val", "0", "--seed", "1"]
    assert tool.main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert tool.main([*arguments, "--force"]) == 0
    assert note.read_text() == "keep me"
    assert (tmp_path / "train" / "label.txt").is_file()
    assert tool.main(["--output", str(note)]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_failed_split_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tool, "render_image", broken)
    assert tool.main(["--output", str(tmp_path / "out"), "--train", "1"]) == 1
    assert list((tmp_path / "out").iterdir()) == []
