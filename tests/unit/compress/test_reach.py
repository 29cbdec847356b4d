"""How far down a network's channels let its work come is known before a search."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from support.constructions import CONSTRUCTIONS
from support.dense_family import build

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import discover
from edgemtl.compress.channels.groups import snapped_widths
from edgemtl.compress.cost import CostModel
from edgemtl.compress.reach import reach_of
from edgemtl.compress.work import count_work
from edgemtl.exporting.module_cost import module_costs
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import example_images


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize(
    "make",
    [build, *(CONSTRUCTIONS[name].build for name in ("packed heads", "separate heads", "windows"))],
    ids=["dense", "packed-heads", "separate-heads", "windows"],
)
def test_the_lowest_share_is_that_of_the_network_cut_to_its_narrowest(
    make: Callable[[], MultiTaskNetwork], multiple: int
) -> None:
    network = make()
    found = discover(network)
    keep = {
        group.name: torch.arange(group.width) < snapped_widths(group, multiple)[0]
        for group in found.groups
    }
    smaller = cut(network, keep, found.groups)
    share = module_costs(smaller).macs / module_costs(network).macs
    assert reach_of(found, multiple).lowest == pytest.approx(share, rel=1e-3)


def test_the_price_of_a_search_counts_attention_with_its_heads() -> None:
    network = CONSTRUCTIONS["packed heads"].build()
    found = discover(network)
    work = count_work(network, example_images(network))
    price = CostModel(network, found.groups, work, 1, found.products)
    keep = {g.name: torch.arange(g.width) < g.width // 2 for g in found.groups}
    smaller = cut(network, keep, found.groups)
    assert price.of({}).macs == pytest.approx(module_costs(network).macs)
    assert price.of(keep).macs == pytest.approx(module_costs(smaller).macs)


def test_a_goal_out_of_reach_is_told_with_what_any_width_would_allow() -> None:
    found = discover(build())
    lowest = reach_of(found, 8).lowest
    assert lowest > reach_of(found, 1).lowest
    fine = reach_of(found, 8, lowest + 0.01)
    assert not fine.short and "cannot be reached" not in " ".join(fine.sentences())
    short = reach_of(found, 8, lowest - 0.01)
    assert short.short
    assert f"the goal of {lowest - 0.01:.1%} cannot be reached" in short.sentences()[-1]
    assert f"{short.unsnapped:.1%} if any width is allowed" in short.sentences()[-1]


def test_groups_left_whole_as_asked_raise_it() -> None:
    found = discover(build())
    assert reach_of(found, 8, groups=found.groups[1:]).lowest > reach_of(found, 8).lowest
    assert reach_of(found, 8, groups=()).lowest == pytest.approx(1.0)


def test_what_cannot_be_cut_is_named_with_a_reason_and_its_share() -> None:
    found = discover(CONSTRUCTIONS["layer norm of a map"].build())
    reach = reach_of(found, 1)
    (norm,) = [item for item in reach.whole if item.module == "body.0"]
    assert norm.channels == 6 and norm.reason and 0 < norm.macs_share < reach.whole_share < 1
    modules = len({item.module for item in reach.whole})
    assert reach.sentences()[0].startswith(f"channels of {modules} modules cannot be cut")
    stored = json.loads(json.dumps(reach.to_dict()))
    assert {row["module"] for row in stored["whole"]} == {item.module for item in reach.whole}
    assert stored["lowest_macs_share"] == reach.lowest and stored["summary"] == reach.sentences()
