"""Several data sets as one, and fewer pictures of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.data import write_face_folder

from edgemtl.data.concat import Concatenated, concatenate, thinned
from edgemtl.data.faces import FaceFolder


@pytest.fixture
def parts(tmp_path: Path) -> list[FaceFolder]:
    for index, count in enumerate((3, 2)):
        write_face_folder(tmp_path / str(index), "val", count=count, seed=index)
    return [FaceFolder.open(tmp_path / str(index), "val") for index in range(2)]


def test_all_parts_come_in_order_and_single_parts_stay_themselves(parts: list[FaceFolder]) -> None:
    both = concatenate(parts)
    assert len(both) == 5 and both.name == "0/val + 1/val"
    assert [s.name for s in both] == [e.name for part in parts for e in part.entries]
    assert concatenate(parts[:1]) is parts[0]


def test_a_subset_counts_over_all_parts_and_keeps_its_order(parts: list[FaceFolder]) -> None:
    names = [s.name for s in Concatenated(parts)]
    taken = Concatenated(parts).subset([4, 1, 0])
    assert [s.name for s in taken] == [names[4], names[1], names[0]]


def test_thinning_spreads_over_the_whole(parts: list[FaceFolder]) -> None:
    both = Concatenated(parts)
    names = [s.name for s in both]
    assert [s.name for s in thinned(both, 2)] == [names[0], names[2]]
    assert thinned(both, None) is both and thinned(both, 9) is both


def test_problems_and_fingerprint_are_of_all_parts(parts: list[FaceFolder]) -> None:
    both = Concatenated(parts)
    before = both.fingerprint()
    parts[1].entries[0].path.write_bytes(b"no picture")
    assert both.fingerprint() != before
    assert len(list(both)) == 4
    assert len(both.problems) == 1 and parts[1].entries[0].name in both.problems[0]
