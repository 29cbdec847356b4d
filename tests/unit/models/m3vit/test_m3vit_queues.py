"""Static experts of a M3ViT: queues of a length each, that several tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.m3vit import tiny
from torch import Tensor

from edgemtl.models.m3vit import vit
from edgemtl.models.m3vit.experts import Experts
from edgemtl.models.m3vit.gates import Routing
from edgemtl.models.m3vit.network import OVERFLOW, M3ViT

ALL = ["rooms", "facing", "distance"]


def queues(network: M3ViT, images: Tensor, tasks: Sequence[str]) -> list[list[int]]:
    """Just as long as these pictures need them; one place where nobody chose an expert."""
    return [
        [max(1, length) for length in use.queues.tolist()]
        for use in network.expert_use(images, tasks)
    ]


def answered(network: M3ViT, images: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(images, tasks)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens that each expert computed, per call."""
    found: list[list[int]] = []
    real = Experts._each

    def each(self: Experts, queued: Tensor, lengths: Sequence[int]) -> Tensor:
        assert queued.shape[0] == sum(lengths)
        found.append(list(lengths))
        return real(self, queued, lengths)

    monkeypatch.setattr(Experts, "_each", each)
    return found


@pytest.mark.parametrize("gating", ["per_task", "task_conditioned", "single"])
@pytest.mark.parametrize("tasks", [ALL, ["distance"]])
def test_queues_as_long_as_needed_lose_nothing(
    gating: str, tasks: list[str], computed: list[list[int]]
) -> None:
    network = tiny(gating=gating, depth=6)
    images = network.example_input(2, seed=3)
    network.set_lowering("dense")
    wanted = answered(network, images, tasks)
    lengths = queues(network, images, tasks)
    assert any(len(set(layer)) > 1 for layer in lengths)
    network.set_lowering("static", lengths)
    found = answered(network, images, tasks)
    assert found[OVERFLOW].tolist() == [[0.0], [0.0]]
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    assert computed == lengths, "one product per layer and expert, for all tasks"


def test_tokens_that_several_gates_send_to_an_expert_are_computed_once() -> None:
    """Up to the first gate all tasks have the same tokens; from then on each has its own."""
    network = tiny(depth=6)
    images = network.example_input()
    use = network.expert_use(images)
    tokens = network.backbone.count
    sums = [int(sum(loads.sum() for loads in layer.loads.values())) for layer in use]
    assert sums == [tokens * 2 * 3] * 3
    assert int(use[0].queues.sum()) < sums[0] and int(use[0].queues.max()) <= tokens
    assert [int(layer.queues.sum()) for layer in use[1:]] == sums[1:]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_what_finds_one_queue_full_is_counted(layer: int) -> None:
    network = tiny(depth=6)
    images = network.example_input(seed=2)
    lengths = queues(network, images, ALL)
    longest = max(range(6), key=lambda expert: lengths[layer][expert])
    network.set_lowering("static", lengths)
    whole = answered(network, images, ALL)
    lengths[layer][longest] -= 1
    network.set_lowering("static", lengths)
    short = answered(network, images, ALL)
    if layer == 2:  # of the last layer nothing follows, so it is that choice alone
        assert short[OVERFLOW].tolist() == [[1.0]]
    else:
        assert float(short[OVERFLOW]) >= 1.0
    assert any(not torch.equal(short[name], whole[name]) for name in whole if name != OVERFLOW)


def test_every_experts_own_length_is_kept() -> None:
    """Two routings in the same queues: per expert the first that come, of both."""
    torch.manual_seed(0)
    experts = Experts(3, 8, 4, "static", capacity=[2, 4, 1])
    tokens = [torch.randn(4, 8) for _ in range(2)]
    chosen = [torch.tensor([[0, 1], [0, 1], [0, 2], [1, 2]]), torch.tensor([[1, 0]] * 4)]
    routings = [Routing(choice, torch.full((4, 2), 0.5)) for choice in chosen]
    with torch.no_grad():
        (first, lost_first), (second, lost_second) = experts(tokens, routings)
        # of expert 0 two places, of expert 1 three and then one, of expert 2 one
        assert lost_first.tolist() == [0, 0, 1, 1]
        assert lost_second.tolist() == [1, 2, 2, 2]
        torch.testing.assert_close(
            first[2:3], 0.5 * experts._one(2, tokens[0][2:3]), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            second[:1], 0.5 * experts._one(1, tokens[1][:1]), rtol=1e-5, atol=1e-6
        )
        assert not second[1:].any()


def test_dropped_experts_count_in_shared_queues_too() -> None:
    torch.manual_seed(0)
    experts = Experts(4, 8, 4, "static", capacity=[3, 1], kept=[1, 3])
    tokens = torch.randn(3, 8)
    routings = [
        Routing(torch.tensor([[0, 1], [1, 3], [3, 1]]), torch.ones(3, 2)),
        Routing(torch.tensor([[1, 3], [2, 0], [1, 0]]), torch.ones(3, 2)),
    ]
    with torch.no_grad():
        found = experts([tokens], routings)
    # the only place at expert 3 is the first token's, which the second routing sends there
    assert [lost.tolist() for _, lost in found] == [[1, 1, 1], [0, 2, 1]]
    one = experts._one(0, tokens)
    torch.testing.assert_close(found[0][0], one, rtol=1e-5, atol=1e-6)
    assert not found[1][0][1].any()


def test_lengths_of_all_tasks_do_for_one(computed: list[list[int]]) -> None:
    """No queue is longer than there are tokens."""
    network = tiny()
    network.set_lowering("dense")
    images = network.example_input(seed=4)
    wanted = answered(network, images, ["distance"])["distance.depth"]
    network.set_lowering("static", [[7, 8, 9, 9, 9, 9], [27, 27, 20, 27, 27, 27]])
    found = answered(network, images, ["distance"])
    assert computed == [[7, 8, 9, 9, 9, 9], [9] * 6]
    torch.testing.assert_close(found["distance.depth"], wanted, rtol=1e-5, atol=1e-5)


def test_more_tokens_than_half_precision_counts_do_not_share(
    monkeypatch: pytest.MonkeyPatch, computed: list[list[int]]
) -> None:
    network = tiny(depth=6)
    images = network.example_input(seed=5)
    network.set_lowering("dense")
    wanted = answered(network, images, ALL)
    monkeypatch.setattr(vit, "MOST_TOGETHER", 3 * 9 - 1)
    use = network.expert_use(images)
    for layer in use:
        assert torch.equal(layer.queues, torch.stack(list(layer.loads.values())).amax(dim=0))
    lengths = queues(network, images, ALL)
    network.set_lowering("static", lengths)
    found = answered(network, images, ALL)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    assert computed == lengths * 3, "task after task"


def test_how_experts_are_computed_does_not_change_what_is_recorded() -> None:
    network = tiny(depth=6)
    images = network.example_input(seed=6)
    wanted = [use.loads for use in network.expert_use(images)]
    network.set_lowering("static")
    for before, after in zip(
        wanted, [use.loads for use in network.expert_use(images)], strict=True
    ):
        assert list(before) == list(after) == ALL
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("capacity", [[[3] * 5, 4], [[3] * 6, [4] * 7], [[3, 3, 3, 0, 3, 3], 4]])
def test_lengths_that_are_not_one_per_expert_are_refused(capacity: Any) -> None:
    network = tiny()
    with pytest.raises(ValueError, match="capacities"):
        network.set_lowering("static", capacity)
    assert {m.experts.lowering for m in network.backbone.mixtures()} == {"gather"}


def test_routings_of_other_tokens_are_refused() -> None:
    routing = Routing(torch.tensor([[0]]), torch.ones(1, 1))
    with pytest.raises(ValueError, match="3 routings of 2 sets"):
        Experts(2, 8, 4, "static")([torch.zeros(1, 8)] * 2, [routing] * 3)
