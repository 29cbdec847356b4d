"""Tables of labels and image folders: what is read, what is refused, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgemtl.data.open import open_dataset
from edgemtl.data.tables import LabelledFiles
from edgemtl.errors import InputRefused


def image(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def table(root: Path, name: str, text: str) -> LabelledFiles:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    found = open_dataset(root, "val")
    assert isinstance(found, LabelledFiles)
    return found


CSV = """file,group,speed,sky,night
a.png,x,1.5,grey,1
b.png,x,,"blue, deep",0
c.png,y,-3,,
"""


def test_csv_numbers_text_and_empty_cells(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / "val" / "images" / f"{name}.png")
    found = table(tmp_path, "val/labels.csv", CSV)
    labels = {sample.name: dict(sample.labels) for sample in found}
    assert labels == {
        "a.png": {"speed": 1.5, "sky": "grey", "night": 1.0},
        "b.png": {"sky": "blue, deep", "night": 0.0},
        "c.png": {"speed": -3.0},
    }
    assert found.groups() == ("x", "x", "y") and not found.problems
    assert found.name == f"{tmp_path.name}/val"
    assert [sample.name for sample in found.subset([2, 0])] == ["c.png", "a.png"]


def test_a_byte_order_mark_and_images_beside_the_table(tmp_path: Path) -> None:
    image(tmp_path / "val" / "a.png")
    found = table(tmp_path, "val/labels.csv", "\ufefffile,sky\na.png,grey\n")
    assert [dict(sample.labels) for sample in found] == [{"sky": "grey"}]


def test_json_lines_keep_their_values(tmp_path: Path) -> None:
    image(tmp_path / "images" / "deep" / "a.png")
    row = {"file": "deep/a.png", "tags": ["red", "round"], "speed": 2, "sky": None, "group": 7}
    found = table(tmp_path, "val.jsonl", json.dumps(row) + "\n\nnot json\n[1]\n")
    assert [dict(sample.labels) for sample in found] == [{"tags": ["red", "round"], "speed": 2}]
    assert found.groups() == ("7",)
    assert [line.split(":")[1] for line in found.problems] == ["3", "4"]


def test_maps_beside_the_images_are_labels_too(tmp_path: Path) -> None:
    image(tmp_path / "val" / "images" / "a.png")
    cv2_label = np.full((20, 30), 3, np.uint8)
    (tmp_path / "val" / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "val" / "labels" / "a.png"), cv2_label)
    found = table(tmp_path, "val/labels.csv", "file,sky\na.png,grey\n")
    (sample,) = found
    assert sample.labels["sky"] == "grey"
    assert (sample.labels["segmentation"] == 3).all()
    before = found.fingerprint()
    cv2.imwrite(str(tmp_path / "val" / "labels" / "a.png"), cv2_label + 1)
    assert found.fingerprint() != before


def test_what_cannot_be_used_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    image(tmp_path / "val" / "a.png")
    text = "file,sky\na.png,grey\n../b.png,grey\nshort\n,grey\nmissing.png,grey\n"
    found = table(tmp_path, "val/labels.csv", text)
    assert [sample.name for sample in found] == ["a.png"]
    told = "\n".join(found.problems)
    assert "'../b.png': not a file name inside" in told and "missing.png: is missing" in told
    assert "labels.csv:4: not as many cells" in told and "labels.csv:5:" in told


def test_many_problems_are_counted(tmp_path: Path) -> None:
    image(tmp_path / "val" / "a.png")
    found = table(tmp_path, "val/labels.jsonl", '{"file": "a.png"}\n' + "nothing\n" * 50)
    assert len(found.problems) == 21 and found.problems[-1] == "30 more such problem(s)"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("val/labels.csv", "name,sky\na.png,grey\n", "no column 'file'"),
        ("val/labels.csv", "", "no column 'file'"),
        ("val/labels.csv", 'file,sky\n"a.png,grey\n', "is no CSV"),
        ("val/labels.csv", "file,sky\n", "names no picture"),
        ("val/labels.jsonl", "[]\n", "names no picture"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InputRefused, match=said) as refused:
        table(tmp_path, name, text)
    assert "expected a column 'file'" in str(refused.value.hint) or "CSV" in said


def test_a_changed_label_changes_the_fingerprint(tmp_path: Path) -> None:
    image(tmp_path / "val" / "a.png")
    one = table(tmp_path, "val/labels.csv", "file,sky\na.png,grey\n").fingerprint()
    assert table(tmp_path, "val/labels.csv", "file,sky\na.png,grey\n").fingerprint() == one
    assert table(tmp_path, "val/labels.csv", "file,sky\na.png,blue\n").fingerprint() != one


def test_other_files_at_the_root_are_no_splits(tmp_path: Path) -> None:
    image(tmp_path / "val" / "a.png")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.jsonl").write_text("[1]\n")
    found = table(tmp_path, "val/labels.csv", "file,sky\na.png,grey\n")
    assert open_dataset(tmp_path).name == found.name
    assert open_dataset(tmp_path / "val").name == found.name  # the split itself


def test_image_folders_give_a_image_of_each_class_in_turn(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png", "cat/3.JPG", "dog/1.png", "dog/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / "val" / name).write_text("no picture")
        else:
            image(tmp_path / "val" / name)
    found = list(open_dataset(tmp_path, "val"))
    assert [(s.name, s.labels["class"]) for s in found] == [
        ("cat/1.png", "cat"),
        ("dog/1.png", "dog"),
        ("cat/2.png", "cat"),
        ("cat/3.JPG", "cat"),
    ]
