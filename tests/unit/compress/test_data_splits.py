"""The slices that pruning and quantisation work with: sizes, seeds, nobody on both sides."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest
from support.data import write_face_folder
from support.shared import data_folder

from edgemtl.compress.data_splits import MOST_TAKEN, DataSplits
from edgemtl.compress.quantize.images import split
from edgemtl.data.concat import Concatenated
from edgemtl.data.faces import FaceFolder
from edgemtl.data.groups import groups_of
from edgemtl.data.open import open_dataset
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, UsageError


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> FaceFolder:
    """60 pictures of which nothing is known."""
    root = tmp_path_factory.mktemp("alone")
    return FaceFolder.open(write_face_folder(root, "train", 60, size=(8, 8), faces=0), "train")


def of_people(root: Path, people: int, count: int = 60) -> FaceFolder:
    write_face_folder(root, "train", count=count, size=(8, 8), faces=0)
    told = {f"{i:04d}.jpg": f"person {i % people}" for i in range(count)}
    (root / "train" / "groups.json").write_text(json.dumps(told))
    return FaceFolder.open(root, "train")


def names(dataset: Dataset | None) -> list[str]:
    if isinstance(dataset, Concatenated):
        return [name for part in dataset.parts for name in names(part)]
    assert isinstance(dataset, FaceFolder)
    return [entry.name for entry in dataset.entries]


def people_in(dataset: Dataset | None) -> set[Hashable]:
    assert dataset is not None
    return set(groups_of(dataset))


def test_without_groups_the_choice_is_the_one_of_old(alone: FaceFolder) -> None:
    found = DataSplits.split([alone, alone], oracle=20, calibration=8, seed=3)
    everything = names(alone)
    for number in range(2):
        order = np.random.default_rng([3, number]).permutation(60)
        for slice_, wanted in (
            (found.oracle, order[:10]),
            (found.calibration, order[10:14]),
            (found.recovery, np.sort(order[14:])),
        ):
            assert isinstance(slice_, Concatenated)
            assert names(slice_.parts[number]) == [everything[i] for i in wanted]


def test_without_groups_quantisation_chooses_as_of_old(alone: FaceFolder) -> None:
    order, everything = np.random.default_rng(5).permutation(60), names(alone)
    for calibrate, judge, more in ((10, 20, 5), (10, 0, 5), (50, 40, 0), (40, 600, 200)):
        first, second, third = split(alone, calibrate, judge, 5, more)
        count = min(calibrate, 30) if judge else calibrate
        assert names(first) == sorted(everything[i] for i in order[:count])
        assert names(second) == [everything[i] for i in order[count : count + judge]]
        rest = [*order[:count], *order[count + judge : count + judge + more]]
        assert names(third) == sorted(everything[i] for i in rest)


@pytest.mark.parametrize("people", [6, 20])
def test_nobody_who_is_judged_by_is_learned_from(tmp_path: Path, people: int) -> None:
    dataset = of_people(tmp_path, people)
    for seed in range(4):
        found = DataSplits.split([dataset], oracle=12, calibration=10, seed=seed)
        again = DataSplits.split([dataset], oracle=12, calibration=10, seed=seed)
        assert (len(found.oracle), len(found.calibration)) == (12, 10)
        assert found.recovery is not None
        assert not people_in(found.oracle) & people_in(found.calibration)
        assert not people_in(found.oracle) & people_in(found.recovery)
        assert not set(names(found.calibration)) & set(names(found.recovery))
        assert names(found.oracle) == names(again.oracle)
        assert names(found.recovery) == names(again.recovery)
    other = DataSplits.split([dataset], oracle=12, calibration=10, seed=9)
    assert names(other.oracle) != names(found.oracle)


def test_too_few_kinds_are_refused_with_the_next_step(tmp_path: Path) -> None:
    dataset = of_people(tmp_path, 2)
    with pytest.raises(
        UsageError, match=r"show 2 group\(s\).*gives 30 pictures to judge by, 40 are"
    ):
        DataSplits.split([dataset], oracle=40, calibration=8)
    with pytest.raises(UsageError) as caught:
        DataSplits.split([of_people(tmp_path / "one", 1)], oracle=4, calibration=4)
    assert "lower oracle_images" in str(caught.value.hint)
    with pytest.raises(InputRefused, match="show 1 group"):
        split(of_people(tmp_path / "two", 1), 10, 10, 0)


def test_quantisation_judges_by_others_than_it_calibrates_and_trains_on(tmp_path: Path) -> None:
    dataset = of_people(tmp_path, 10)
    for judge, more in ((12, 0), (12, 20), (600, 200)):
        first, second, third = split(dataset, 20, judge, 1, more)
        assert len(first) == 20 and len(third) >= 20 and len(second) >= min(judge, 12)
        assert not people_in(second) & people_in(third)
        assert set(names(first)) <= set(names(third))


def test_real_people_are_many_and_few_images_are_lost() -> None:
    dataset = open_dataset(data_folder("faces_landmarks"), "train")
    found = DataSplits.split([dataset], oracle=64, calibration=28)
    assert found.recovery is not None
    assert not people_in(found.oracle) & people_in(found.recovery)
    assert len(people_in(found.oracle)) >= 30 and len(people_in(found.calibration)) >= 25
    used = len(found.oracle) + len(found.calibration) + len(found.recovery)
    assert used >= (1 - MOST_TAKEN) * len(dataset)
