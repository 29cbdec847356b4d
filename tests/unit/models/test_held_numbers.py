"""Numbers in tuples, lists, dictionaries and objects: found, and set without touching others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
from torch import nn

from edgemtl.models.held_numbers import held_numbers, number_at, set_number


@dataclass(frozen=True)
class Frozen:
    width: int = 6
    name: str = "x"


class Pair(NamedTuple):
    left: int
    right: int


class Holder(nn.Module):
    def __init__(self, config: Frozen) -> None:
        super().__init__()
        self.hidden = 3
        self.flag = True
        self.sizes = (4, 5)
        self.parts = [7, [8]]
        self.table = {"a": 9, "b.c": 10}
        self.pair = Pair(1, 2)
        self.config = config
        self.layer = nn.Linear(11, 12)


def test_numbers_are_found_by_path() -> None:
    found = dict(held_numbers(Holder(Frozen())))
    assert found == {
        "hidden": 3,
        "sizes.0": 4,
        "sizes.1": 5,
        "parts.0": 7,
        "parts.1.0": 8,
        "table.a": 9,
        "pair.0": 1,
        "pair.1": 2,
        "config.width": 6,
    }


def test_a_ring_of_objects_ends() -> None:
    module = Holder(Frozen())
    ring: list[object] = [1]
    ring.append(ring)
    module.parts = ring  # type: ignore[assignment]
    assert ("parts.0", 1) in list(held_numbers(module))


@pytest.mark.parametrize("path", list(dict(held_numbers(Holder(Frozen())))))
def test_a_number_is_set_and_its_neighbours_are_not(path: str) -> None:
    module = Holder(Frozen())
    before = dict(held_numbers(module))
    set_number(module, path, 99)
    assert dict(held_numbers(module)) == {**before, path: 99}
    assert number_at(module, path) == 99


def test_what_two_modules_share_is_copied_first() -> None:
    config = Frozen()
    one, other = Holder(config), Holder(config)
    set_number(one, "config.width", 2)
    assert (one.config.width, other.config.width, config.width) == (2, 6, 6)
    assert isinstance(one.config, Frozen) and isinstance(one.pair, Pair)


@pytest.mark.parametrize(
    "path", ["", "nobody", "flag", "config.name", "layer.in_features", "_parameters", "sizes.9"]
)
def test_paths_that_lead_nowhere(path: str) -> None:
    assert number_at(Holder(Frozen()), path) is None
