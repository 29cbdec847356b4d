"""Finding out which layout a folder has."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgemtl.data import open as opening
from edgemtl.data.open import DatasetFormat, formats, open_dataset, register_format
from edgemtl.errors import InputRefused, UsageError


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((50, 60, 3), 90, np.uint8))


def _faces(root: Path, split: str) -> None:
    _image(root / split / "images" / "a.png")
    (root / split / "label.txt").write_text("# a.png\n1 2 30 40\n")


def _wider(root: Path, split: str = "val") -> None:
    _image(root / f"WIDER_{split}" / "images" / "0--Parade" / "a.jpg")
    folder = root / "wider_face_split"
    folder.mkdir(exist_ok=True)
    (folder / f"wider_face_{split}_bbx_gt.txt").write_text(
        "0--Parade/a.jpg\n1\n1 2 30 40 0 0 0 0 0 0\n"
    )


def test_face_folder(tmp_path: Path) -> None:
    _faces(tmp_path, "train")
    _faces(tmp_path, "val")
    assert open_dataset(tmp_path, "val").name.endswith("/val")
    assert next(iter(open_dataset(tmp_path, "val"))).name == "a.png"


def test_split_is_found_when_there_is_one_only(tmp_path: Path) -> None:
    _faces(tmp_path, "test")
    assert open_dataset(tmp_path).name.endswith("/test")


def test_folder_that_is_the_split_itself(tmp_path: Path) -> None:
    _faces(tmp_path, "val")
    assert open_dataset(tmp_path / "val").name == f"{tmp_path.name}/val"


def test_wider_face(tmp_path: Path) -> None:
    _wider(tmp_path)
    (sample,) = open_dataset(tmp_path, "val")
    assert sample.name == "0--Parade/a.jpg"


def test_dense_folder(tmp_path: Path) -> None:
    _image(tmp_path / "val" / "images" / "a.png")
    depth = tmp_path / "val" / "depth_mm"
    depth.mkdir()
    cv2.imwrite(str(depth / "a.png"), np.full((50, 60), 1500, np.uint16))
    (sample,) = open_dataset(tmp_path, "val")
    assert "depth" in sample.labels


def test_aflw2000(tmp_path: Path) -> None:
    _image(tmp_path / "a.jpg")
    points = np.random.default_rng(0).uniform(5, 45, (3, 68))
    savemat(tmp_path / "a.mat", {"Pose_Para": np.zeros((1, 7)), "pt3d_68": points})
    (sample,) = open_dataset(tmp_path)
    assert sample.name == "a.jpg"
    with pytest.raises(InputRefused, match="no split 'val'"):
        open_dataset(tmp_path, "val")


def test_named_format_is_the_only_one_tried(tmp_path: Path) -> None:
    _faces(tmp_path, "val")
    with pytest.raises(InputRefused) as caught:
        open_dataset(tmp_path, "val", "wider")
    assert caught.value.hint is not None
    assert "wider_face_val_bbx_gt.txt" in caught.value.hint
    assert "label.txt" not in caught.value.hint


def test_what_was_looked_for_is_listed(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as caught:
        open_dataset(tmp_path, "val")
    assert caught.value.hint is not None
    for part in ("val/label.txt", "wider_face_val_bbx_gt.txt", "NAME.mat", "val/depth_mm"):
        assert part in caught.value.hint


def test_splits_are_listed(tmp_path: Path) -> None:
    _faces(tmp_path, "train")
    _faces(tmp_path, "val")
    with pytest.raises(InputRefused, match=r"no split 'test'.*its splits: train, val"):
        open_dataset(tmp_path, "test")
    with pytest.raises(InputRefused, match=r"several splits.*train, val"):
        open_dataset(tmp_path)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no such data folder"):
        open_dataset(tmp_path / "nowhere", "val")
    with pytest.raises(UsageError, match="unknown data format 'yolo'"):
        open_dataset(tmp_path, "val", "yolo")
    with pytest.raises(UsageError, match="not the name of a split"):
        open_dataset(tmp_path, "../val")


def test_later_formats_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_FORMATS", dict(opening._FORMATS))
    _faces(tmp_path / "inner", "val")
    register_format(
        DatasetFormat(
            "nested",
            "inner/SPLIT/label.txt",
            lambda root: ["val"] if (root / "inner").is_dir() else [],
            lambda root, split: open_dataset(root / "inner", split),
        )
    )
    assert "nested" in formats()
    assert len(open_dataset(tmp_path, "val")) == 1
