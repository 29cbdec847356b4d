"""Masks and gates: exact, differentiable, and without a trace on the network."""

from __future__ import annotations

import pytest
import torch
from support.pruning import networks, random_keep
from torch import nn

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.errors import UsageError

NETWORK = networks()["tiny-dense"]
GROUPS = channel_groups(NETWORK)


def test_without_masks_nothing_changes() -> None:
    images = NETWORK.example_input()
    masked = MaskedNetwork(NETWORK, GROUPS)
    for name, value in masked(images).items():
        assert torch.equal(value, NETWORK(images)[name])
    assert all(bool(mask.all()) for mask in masked.masks().values())
    assert list(masked.masks()) == [group.name for group in GROUPS]


def test_a_mask_changes_answers_and_goes_without_trace() -> None:
    images = NETWORK.example_input()
    before = {key: value.clone() for key, value in NETWORK.state_dict().items()}
    dense = NETWORK(images)
    masked = MaskedNetwork(NETWORK, GROUPS)
    for name, keep in random_keep(GROUPS, 0).items():
        masked.set_mask(name, keep)
        assert torch.equal(masked.masks()[name], keep)
    changed = masked(images)
    assert all(not torch.allclose(changed[name], dense[name]) for name in dense)
    masked.clear("stem.conv")
    assert bool(masked.masks()["stem.conv"].all())
    masked.clear()
    for name, value in masked(images).items():
        assert torch.equal(value, dense[name])
    for key, value in NETWORK.state_dict().items():
        assert torch.equal(value, before[key])


def test_only_the_requested_tasks_run() -> None:
    masked = MaskedNetwork(NETWORK, GROUPS)
    masked.set_mask("fine.conv", torch.arange(16) < 9)
    images = NETWORK.example_input()
    alone = masked(images, ["distance"])
    assert list(alone) == ["distance.depth"]
    assert torch.equal(alone["distance.depth"], masked(images)["distance.depth"])


def test_a_group_of_one_task_leaves_the_other_alone() -> None:
    masked = MaskedNetwork(NETWORK, GROUPS)
    masked.set_mask("decoders.parts.refine.conv", torch.arange(16) < 4)
    images = NETWORK.example_input()
    changed, dense = masked(images), NETWORK(images)
    assert torch.equal(changed["distance.depth"], dense["distance.depth"])
    assert not torch.allclose(changed["parts.logits"], dense["parts.logits"])


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-vit"])
def test_gate_gradients_are_the_slope_of_the_loss(name: str) -> None:
    """Central differences in float64 over single gates, with a mask set."""
    network = networks()[name].double()
    groups = channel_groups(network)
    images = network.example_input().double()
    masked = MaskedNetwork(network, groups)
    first = groups[0]
    masked.set_mask(first.name, torch.arange(first.width) > 0)

    def loss() -> torch.Tensor:
        return torch.stack([value.square().mean() for value in masked(images).values()]).sum()

    gates = masked.gates(True)
    assert list(gates) == [group.name for group in groups]
    found = torch.autograd.grad(loss(), list(gates.values()))
    step = 1e-3
    for (key, gate), slope in zip(gates.items(), found, strict=True):
        assert slope.shape == gate.shape
        unit = int(slope.abs().argmax())
        with torch.no_grad():
            values = []
            for shift in (step, -step):
                gate[unit] += shift
                values.append(float(loss()))
                gate[unit] -= shift
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(slope[unit]), rel=2e-2)
        if key == first.name:
            assert float(slope[0]) == 0.0  # masked
    assert not masked.gates(False)
    assert set(masked.overrides()) == {m.tensor for m in first.with_role("consumer")}


def test_statistics_measured_behind_a_mask_are_those_of_the_cut_network() -> None:
    """Batch norms can be recalibrated while channels are only masked."""
    from edgemtl.compress.channels.cut import check_cut, cut

    network = networks()["tiny-dense"]
    groups = channel_groups(network)
    keep = random_keep(groups, 5)
    masked = MaskedNetwork(network, groups)
    for name, mask in keep.items():
        masked.set_mask(name, mask)
    smaller = cut(network, keep, groups)
    images = network.example_input(4, seed=1)
    with torch.no_grad():
        network.train()
        smaller.train()
        masked(images)
        smaller(images)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert network.training and smaller.training
    check_cut(network, keep, smaller, images, groups)
    assert network.training and smaller.training


def test_masks_that_do_not_fit_are_refused() -> None:
    masked = MaskedNetwork(NETWORK, GROUPS)
    for name, mask, reason in [
        ("nobody", torch.ones(16, dtype=torch.bool), "no prunable group"),
        ("stem.conv", torch.ones(15, dtype=torch.bool), "has to be"),
        ("stem.conv", torch.ones(16), "has to be"),
        ("stem.conv", torch.zeros(16, dtype=torch.bool), "keeps nothing"),
    ]:
        with pytest.raises(UsageError, match=reason):
            masked.set_mask(name, mask)
