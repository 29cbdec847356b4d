"""Which pictures are alike, and held-out slices without their likes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.data import write_dense_folder, write_face_folder
from support.shared import data_folder

from edgemtl.data.concat import Concatenated
from edgemtl.data.dense import DenseFolder
from edgemtl.data.faces import FaceFolder, person
from edgemtl.data.groups import groups_hash, groups_of, hold_out, outside
from edgemtl.data.open import open_dataset
from edgemtl.data.published_dense import STRETCH, IndoorRgbd
from edgemtl.errors import InputRefused


def order_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).permutation(count).tolist()


def test_images_alone_are_taken_in_the_order_of_choice() -> None:
    order = order_of(20)
    assert hold_out(range(20), order, 6, 20, 1) == order[:6]  # whatever else was to be spared
    assert outside(range(20), order[:6], order) == order[6:]


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides(seed: int) -> None:
    groups = [f"person {i % 17}" for i in range(150)]
    order = order_of(150, seed)
    held_out = hold_out(groups, order, 30, 100, 1)
    others = outside(groups, held_out, order)
    assert len(held_out) == 30 and held_out == hold_out(groups, order, 30, 100, 1)
    assert not {groups[i] for i in held_out} & {groups[i] for i in others}
    assert set(held_out) <= set(order)


def test_few_images_of_many_groups_as_far_as_others_are_left() -> None:
    groups, order = [i // 10 for i in range(1000)], order_of(1000)
    many = hold_out(groups, order, 20, 700, 1)
    assert len({groups[i] for i in many}) == 20  # takes 200 pictures away
    fewer = hold_out(groups, order, 20, 890, 1)
    assert len({groups[i] for i in fewer}) == 10  # two of each take 100 away
    whole = hold_out(groups, order, 20, 975, 1)
    assert len({groups[i] for i in whole}) == 2


def test_whole_groups_end_where_too_little_is_left() -> None:
    groups, order = [0] * 90 + [1] * 10, order_of(100)
    assert {groups[i] for i in hold_out(groups, order, 40, 60, 50)} == {1}
    assert hold_out([0] * 100, order, 40, 60, 1) == []


def test_a_persons_images_are_one_group() -> None:
    assert person("Al_Gore_31.jpg") == person("Al_Gore_02.jpg") == "Al_Gore"
    assert person("0001.jpg") == "0001" and person("_12.jpg") == "_12"


def test_only_the_known_data_set_has_people_by_name(tmp_path: Path) -> None:
    for name, groups in (("faces_landmarks", 1), ("holiday", 3)):
        root = write_face_folder(tmp_path / name, "train", count=3)
        label = root / "train" / "label.txt"
        label.write_text(label.read_text().replace("# 0", "# IMG_0"))
        for path in sorted((root / "train" / "images").iterdir()):
            path.rename(path.with_name(f"IMG_{path.name}"))
        dataset = open_dataset(root, "train")
        assert len(list(dataset)) == 3 and len(set(groups_of(dataset))) == groups


def test_a_video_is_cut_into_stretches(tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path / "indoor_rgbd", "train", count=STRETCH + 3)
    dataset = open_dataset(root, "train")
    assert isinstance(dataset, IndoorRgbd)
    groups = groups_of(dataset)
    assert len(set(groups)) == 2 and len(set(groups[:STRETCH])) == 1
    assert groups_of(dataset.subset([STRETCH, 0])) == (groups[STRETCH], groups[0])


def test_a_file_says_what_is_alike(tmp_path: Path) -> None:
    faces = write_face_folder(tmp_path / "a", "train", count=3)
    dense = write_dense_folder(tmp_path / "b", "train", count=3)
    for root, reader in ((faces, FaceFolder), (dense, DenseFolder)):
        assert len(set(groups_of(reader.open(root, "train")))) == 3
        told = root / "train" / "groups.json"
        told.write_text(json.dumps({"0000.jpg": "ann", "0002.jpg": "ann"}))
        assert groups_of(reader.open(root, "train")) == ("ann", "0001.jpg", "ann")
        for broken in ('["ann"]', '{"0000.jpg": 1}', "{"):
            told.write_text(broken)
            with pytest.raises(InputRefused, match="groups"):
                reader.open(root, "train")


def test_the_hash_is_of_who_is_alike_and_not_of_names(tmp_path: Path) -> None:
    root = write_face_folder(tmp_path / "a", "train", count=3)
    found = []
    for told in ({}, {"0000.jpg": "ann", "0002.jpg": "ann"}, {"0000.jpg": "bo", "0002.jpg": "bo"}):
        (root / "train" / "groups.json").write_text(json.dumps(told))
        found.append(groups_hash(FaceFolder.open(root, "train")))
    assert found[0] != found[1] == found[2]


def test_images_of_two_data_sets_are_never_alike(tmp_path: Path) -> None:
    write_face_folder(tmp_path / "a", "train", count=2)
    both = Concatenated([FaceFolder.open(tmp_path / "a", "train")] * 2)
    assert len(set(groups_of(both))) == 4
    assert groups_of(both.subset([3, 0])) == ((0, "0001.jpg"), (1, "0000.jpg"))


def test_people_of_the_real_data() -> None:
    dataset = open_dataset(data_folder("faces_landmarks"), "train")
    assert len(set(groups_of(dataset))) == 347  # of 3462 pictures
    crowd = open_dataset(data_folder("faces_crowd"), "train")
    assert len(set(groups_of(crowd))) == len(crowd)
