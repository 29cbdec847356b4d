"""Where a pruned network is held against the dense one, channel by channel."""

from __future__ import annotations

import torch
from support.dense_family import build

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.recover.matched import FeatureMatch, matched_rows

WEIGHTS = ["fine.conv.weight", "decoders.parts.out.weight", "coarse.conv.weight", "none.weight"]


def _every_second(network):  # type: ignore[no-untyped-def]
    groups = channel_groups(network)
    keep = {}
    for number, group in enumerate(groups):
        mask = torch.ones(group.width, dtype=torch.bool)
        mask[number % 2 :: 2] = False
        keep[group.name] = mask
    return groups, keep


def test_rows_are_those_that_were_kept() -> None:
    dense = build(0)
    groups, keep = _every_second(dense)
    rows = matched_rows(dense, keep, groups, WEIGHTS)
    smaller = cut(dense, keep, groups)
    assert set(rows) == {"fine.conv", "decoders.parts.out", "coarse.conv"}
    assert len(rows["decoders.parts.out"]) == 4  # classes are never cut
    # A norm's shift goes with its channel, so it says which channels are left.
    kept = smaller.fine.norm.bias
    assert len(kept) < len(dense.fine.norm.bias)
    torch.testing.assert_close(kept, dense.fine.norm.bias[rows["fine.conv"]])


def test_a_second_cut_counts_from_the_dense_network() -> None:
    dense = build(0)
    groups, keep = _every_second(dense)
    first = matched_rows(dense, keep, groups, WEIGHTS)
    smaller = cut(dense, keep, groups)
    again, keep_again = _every_second(smaller)
    rows = matched_rows(smaller, keep_again, again, WEIGHTS, first)
    smallest = cut(smaller, keep_again, again)
    torch.testing.assert_close(smallest.fine.norm.bias, dense.fine.norm.bias[rows["fine.conv"]])
    assert matched_rows(smaller, keep_again, again, WEIGHTS, {}) == {}


def test_the_loss_is_nothing_for_the_same_maps_and_falls_as_they_come_closer() -> None:
    dense = build(0)
    groups, keep = _every_second(dense)
    rows = matched_rows(dense, keep, groups, WEIGHTS[:3])
    images = dense.example_input(2)
    whole = {name: torch.arange(len(dense.get_submodule(name).weight)) for name in rows}
    same = FeatureMatch(build(0), dense, whole)
    student = cut(dense, keep, groups)
    match = FeatureMatch(student, dense, rows)
    with torch.no_grad():
        same_network = build(0)
        alone = FeatureMatch(same_network, dense, whole)
        dense(images)
        same_network(images)
    assert float(alone.loss()) == 0
    alone.remove()
    same.remove()
    match.clear()
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    found = []
    for _ in range(6):
        with torch.no_grad():
            dense(images)
        student(images)
        loss = match.loss()
        found.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert found[0] > 0.01 and found[-1] < 0.9 * found[0]
    match.remove()
    with torch.no_grad():
        student(images)
        dense(images)
    assert float(match.loss()) == 0
