"""The way down: nested, the same whatever the goal, and equal to the worst task's interest."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgemtl.compress.channels.groups import ChannelGroup, Member
from edgemtl.compress.compensation.curves import Curve
from edgemtl.compress.compensation.path import Path


def groups_of(count: int, width: int) -> list[ChannelGroup]:
    """A chain: each group's reader is the next one's writer."""
    found = []
    for number in range(count):
        places = tuple(range(width))
        members = (
            Member(f"w{number}", 0, "producer", 1, places),
            Member(f"w{number + 1}", 1, "consumer", 1, places),
        )
        found.append(ChannelGroup(f"g{number}", width, members, ("a", "b")))
    return found


def price(widths: Mapping[str, Any]) -> NDArray[np.float64]:
    """Products of neighbours, as of layers."""
    names = sorted(widths)
    total: Any = 0.0
    for one, other in pairwise(names):
        total = total + np.asarray(widths[one], float) * widths[other]
    return np.asarray(total / (16.0 * 16.0 * (len(names) - 1)))


def path_of(seed: int, count: int = 4) -> Path:
    rng = np.random.default_rng(seed)
    groups = groups_of(count, 16)
    curves = {}
    for group in groups:
        steps = rng.exponential(size=(14, 2)) ** 2 * np.linspace(0.2, 3, 14)[:, None]
        error = torch.from_numpy(np.concatenate([np.zeros((1, 2)), steps.cumsum(axis=0)]))
        curves[group.name] = Curve(tuple(range(14)), error)
    choices = {group.name: [16, 12, 8, 4, 2] for group in groups}
    return Path(groups, curves, choices, price, np.ones(2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), goals=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
def test_a_looser_goal_is_a_prefix_of_a_tighter_one(seed: int, goals: tuple[float, float]) -> None:
    loose, tight = sorted(goals, reverse=True)
    steps = []
    for goal in (loose, tight):
        path = path_of(seed)
        while path.cost > goal and path.advance():
            pass
        assert path.cost <= goal
        # within one step of what was asked
        assert len(path.steps) == 0 or path.costs[-2] > goal
        steps.append(path.steps)
    shown = [[(one.group, one.before, one.after) for one in part] for part in steps]
    assert shown[1][: len(shown[0])] == shown[0]
    assert all(b <= a for a, b in pairwise(path.costs))


def test_it_ends_where_every_group_is_narrowest_and_goes_back_where_it_was() -> None:
    path = path_of(1)
    while path.advance():
        pass
    assert set(path.widths.values()) == {2}
    assert path.costs[-1] == path.cost == float(price(path.widths))
    total = sum(step.error for step in path.steps)
    np.testing.assert_allclose(path.error, total)
    steps = list(path.steps)
    path.back_to(5)
    np.testing.assert_allclose(path.error, sum(step.error for step in steps[:5]))
    path.advance()
    again = path.steps[5]
    assert (again.group, again.after) == (steps[5].group, steps[5].after)


def test_the_task_that_counts_more_loses_less() -> None:
    found = []
    for weight in ((1.0, 1.0), (8.0, 1.0), (1.0, 8.0)):
        path = path_of(3)
        path.weight = np.array(weight)
        while path.cost > 0.4 and path.advance():
            pass
        found.append(path.error)
    assert found[1][0] <= found[0][0] <= found[2][0]
    assert found[2][1] <= found[0][1] <= found[1][1]


def test_a_step_that_saves_nothing_alone_is_taken_with_the_next() -> None:
    groups = groups_of(1, 16)
    error = torch.linspace(0, 1, 15).double()[:, None]
    curves = {"g0": Curve(tuple(range(14)), error)}

    def stairs(widths: Mapping[str, Any]) -> NDArray[np.float64]:
        return np.ceil(np.asarray(widths["g0"]) / 8.0) / 2.0

    path = Path(groups, curves, {"g0": [16, 12, 8, 4]}, stairs, np.ones(1))
    while path.advance():
        pass
    assert [step.after for step in path.steps] == [12, 8]
    assert path.cost == 0.5
