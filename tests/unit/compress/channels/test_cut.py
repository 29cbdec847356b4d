"""Masked equals cut, cuts compose, and a cut checkpoint comes back from its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pruning import GROUPS, NETWORKS, random_keep

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.errors import ParityFailed, UsageError
from edgemtl.models import checkpoint
from edgemtl.models.base import MultiTaskNetwork


def parameters(network: MultiTaskNetwork) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
def test_masked_equals_cut(name: str, seed: int, share: float) -> None:
    network, groups = NETWORKS[name], GROUPS[name]
    keep = random_keep(groups, seed, share)
    smaller = cut(network, keep, groups)
    found = check_cut(network, keep, smaller, network.example_input(2, seed=seed % 7), groups)
    assert set(found) == set(network.output_names())
    assert parameters(smaller) < parameters(network)
    assert network.pruning == [] and len(smaller.pruning) == 1
    assert smaller.arguments == network.arguments


@pytest.mark.parametrize("name", NETWORKS)
def test_cuts_compose_and_come_back_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    once = cut(network, random_keep(GROUPS[name], 1, 0.7), GROUPS[name])
    between = channel_groups(once)
    assert {g.name for g in between} <= {g.name for g in GROUPS[name]}
    keep = random_keep(between, 2, 0.7)
    twice = cut(once, keep, between)
    images = network.example_input(seed=5)
    check_cut(once, keep, twice, images, between)
    assert len(twice.pruning) == 2 and len(once.pruning) == 1
    path = tmp_path / "model.pt"
    checkpoint.save(checkpoint.from_network(twice), path)
    loaded = checkpoint.load_network(path)
    assert loaded.pruning == twice.pruning
    with torch.no_grad():
        expected, found = twice(images), loaded(images)
    for output, value in expected.items():
        assert torch.equal(found[output], value)
    if not name.startswith("mos"):  # and it can be pruned once more; slow for the others
        assert channel_groups(loaded) == channel_groups(twice)


@pytest.mark.parametrize("name", ["mos-t-deformable", "mos-s", "tiny-dense", "tiny-vit"])
def test_pruned_network_is_exported(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgemtl.exporting.onnx_export import export_onnx

    network = NETWORKS[name]
    smaller = cut(network, random_keep(GROUPS[name], 3), GROUPS[name])
    result = export_onnx(smaller, tmp_path / "model.onnx", opset=17)
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    images = smaller.example_input()
    answers = session.run(list(result.outputs), {"images": images.numpy()})
    with torch.no_grad():
        expected = smaller(images)
    for output, answer in zip(result.outputs, answers, strict=True):
        torch.testing.assert_close(torch.from_numpy(answer), expected[output], rtol=1e-3, atol=1e-4)


def test_folding_a_cut_cross_stitch_changes_nothing() -> None:
    network = NETWORKS["mos-t"]
    smaller = cut(network, random_keep(GROUPS["mos-t"], 4), GROUPS["mos-t"])
    images = network.example_input()
    with torch.no_grad():
        expected, found = smaller(images), smaller.folded()(images)  # type: ignore[attr-defined]
    for output, value in expected.items():
        torch.testing.assert_close(found[output], value, rtol=1e-4, atol=1e-5)


def test_sizes_that_layers_print_agree_with_their_weights() -> None:
    smaller = cut(NETWORKS["mos-m"], random_keep(GROUPS["mos-m"], 6), GROUPS["mos-m"])
    for module in smaller.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.weight.shape[:2] == (
                module.out_channels,
                module.in_channels // module.groups,
            )
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.num_features == len(module.weight)


def test_keeping_everything_is_a_cut_that_does_nothing() -> None:
    network, groups = NETWORKS["tiny-dense"], GROUPS["tiny-dense"]
    same = cut(network, {g.name: torch.ones(g.width, dtype=torch.bool) for g in groups})
    for (key, value), other in zip(
        network.state_dict().items(), same.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key
    assert same.pruning == [] and same is not network


def test_a_wrong_cut_is_noticed_and_names_the_worst_output() -> None:
    network, groups = NETWORKS["tiny-dense"], GROUPS["tiny-dense"]
    keep = {"decoders.parts.refine.conv": torch.arange(16) < 8}
    other = {"decoders.parts.refine.conv": torch.arange(16) >= 8}
    wrong = cut(network, other, groups)
    with pytest.raises(ParityFailed, match=r"parts\.logits"):
        check_cut(network, keep, wrong, network.example_input(), groups)
    broken = cut(network, keep, groups)
    with torch.no_grad():
        broken.stem.conv.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(ParityFailed):
        check_cut(network, keep, broken, network.example_input(), groups)


def test_masks_that_do_not_fit_are_refused() -> None:
    network, groups = NETWORKS["tiny-dense"], GROUPS["tiny-dense"]
    for keep in (
        {"nobody": torch.ones(16, dtype=torch.bool)},
        {"stem.conv": torch.ones(7, dtype=torch.bool)},
        {"stem.conv": torch.zeros(16, dtype=torch.bool)},
    ):
        with pytest.raises(UsageError):
            cut(network, keep, groups)
