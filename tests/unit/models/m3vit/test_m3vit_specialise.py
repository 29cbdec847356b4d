"""Experts left out: the same answers while nobody misses them, and a count when one is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.m3vit import tiny

from edgemtl.models.checkpoint import from_network, load_network, save
from edgemtl.models.m3vit.network import OVERFLOW, M3ViT


def used(network: M3ViT, images: torch.Tensor) -> list[list[int]]:
    """Per layer the experts that these pictures' tokens choose for the task ``distance``."""
    loads = [use.loads for use in network.expert_use(images, ["distance"])]
    return [[e for e, n in enumerate(layer["distance"].tolist()) if n] for layer in loads]


@pytest.mark.parametrize("lowering", ["gather", "sorted", "static", "dense"])
def test_what_is_used_answers_as_the_whole_network(lowering: str) -> None:
    network = tiny(experts=16)
    images = network.example_input(seed=3)
    kept = used(network, images)
    assert any(len(layer) < 16 for layer in kept), "choose another seed: all experts are used"
    small = network.keeping_experts(kept)
    small.set_lowering(lowering)  # type: ignore[arg-type]
    network.set_lowering("dense")
    with torch.no_grad():
        wanted, found = network(images, ["distance"]), small(images, ["distance"])
    torch.testing.assert_close(
        found["distance.depth"], wanted["distance.depth"], rtol=1e-5, atol=1e-5
    )
    assert found[OVERFLOW].tolist() == [[0.0]]
    fewer = sum(p.numel() for p in small.parameters())
    assert fewer < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("lowering", ["gather", "sorted", "static", "dense"])
def test_a_choice_that_is_not_there_is_counted_and_adds_nothing(lowering: str) -> None:
    network = tiny(depth=2)
    images = network.example_input(batch=2, seed=1)
    (routing,) = [use.loads for use in network.expert_use(images, ["distance"])]
    busiest = int(routing["distance"].argmax())
    kept = [e for e in range(6) if e != busiest]
    small = network.keeping_experts([kept])
    small.set_lowering(lowering)  # type: ignore[arg-type]
    with torch.no_grad():
        # An expert that answers zero is what a missing one amounts to.
        experts = network.backbone.mixtures()[0].experts
        experts.weight_out[busiest] = 0
        experts.bias_out[busiest] = 0
        wanted, found = network(images, ["distance"]), small(images, ["distance"])
    torch.testing.assert_close(
        found["distance.depth"], wanted["distance.depth"], rtol=1e-5, atol=1e-5
    )
    assert float(found[OVERFLOW].sum()) == float(routing["distance"][busiest])


def test_the_checkpoint_of_a_smaller_network_reads_back(tmp_path: Path) -> None:
    network = tiny()
    small = network.keeping_experts([[0, 2, 3], [1, 4]])
    save(from_network(small), tmp_path / "small.pt")
    again = load_network(tmp_path / "small.pt")
    images = network.example_input(seed=4)
    with torch.no_grad():
        for name, value in small(images).items():
            assert torch.equal(again(images)[name], value)
    assert isinstance(again, M3ViT)
    assert [m.experts.kept for m in again.backbone.mixtures()] == [(0, 2, 3), (1, 4)]


def test_what_cannot_be_kept_is_refused() -> None:
    network = tiny()
    with pytest.raises(ValueError, match="2 layers"):
        network.keeping_experts([[0, 1]])
    for wrong in ([], [1, 0], [0, 0], [0, 6]):
        with pytest.raises(ValueError, match="cannot be kept"):
            network.keeping_experts([[0], wrong])
    once = network.keeping_experts([[0, 1], [0, 1]])
    with pytest.raises(ValueError, match="cannot be kept"):
        once.keeping_experts([[0, 2], [0]])
    with pytest.raises(ValueError, match="not experts out of 6"):
        tiny(kept_experts=[[0, 7], [0]])
