"""Masks per picture: equal to cutting, predicted by heads, learned apart or together, counted."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from support.pruning import Host, networks, random_keep
from torch import Tensor, nn

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.dynamic.accounting import Estimator, cost_model, observe, sample_macs
from edgemtl.compress.dynamic.dependence import input_dependence, task_overlap
from edgemtl.compress.dynamic.network import DynamicNetwork, MaskOptions
from edgemtl.compress.dynamic.predictor import PredictorOptions
from edgemtl.compress.dynamic.sites import mask_sites
from edgemtl.compress.dynamic.training import (
    Loss,
    TrainOptions,
    head_loss,
    measure_masks,
    train,
)
from edgemtl.errors import StageFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork

NETWORKS = networks()
DENSE = NETWORKS["tiny-dense"]
GROUPS = channel_groups(DENSE)
SITES = mask_sites(DENSE, GROUPS)
MODEL = cost_model(DENSE, GROUPS)


def dynamic(network: MultiTaskNetwork = DENSE, **options: object) -> DynamicNetwork:
    """A copy with heads."""
    copied = copy.deepcopy(network)
    return DynamicNetwork(copied, SITES, MaskOptions(**options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tiny-dense", "mos-m"])
def test_every_image_has_the_answers_of_the_network_cut_for_it(name: str) -> None:
    network = copy.deepcopy(NETWORKS[name])
    groups = channel_groups(network)
    masked = DynamicNetwork(network, mask_sites(network, groups)).eval()
    names = {site.name for site in masked.sites}
    if name == "mos-m":
        assert "backbone.stages.0.1.expand.conv" in names
        assert "backbone.stages.0.1.project.conv" not in names  # a residual stream stays dense
    keeps = [
        {k: v for k, v in random_keep(groups, seed).items() if k in names} for seed in range(2)
    ]
    images = network.example_input(2)
    masked.mode = "given"
    masked.given = {k: torch.stack([keep[k] for keep in keeps]) for k in names}
    with torch.no_grad():
        answers = masked(images)
        dense = network(images)  # outside a pass of the masked network nothing is masked
        for index, keep in enumerate(keeps):
            expected = cut(NETWORKS[name], keep, groups)(images[index : index + 1])
            for output, value in expected.items():
                span = float(value.max() - value.min())
                assert float((answers[output][index] - value[0]).abs().max()) <= 1e-5 * span
                assert not torch.allclose(dense[output][index], value[0], atol=1e-3 * span)


def test_heads_start_with_everything_on_and_removing_them_leaves_no_trace() -> None:
    masked = dynamic()
    images = DENSE.example_input(2)
    with torch.no_grad():
        for output, value in masked(images).items():
            assert torch.equal(value, DENSE(images)[output])
    with pytest.raises(StageFailed, match="cannot be copied"):
        copy.deepcopy(masked.network)
    masked.remove()
    copy.deepcopy(masked.network)


def test_a_predicted_mask_is_never_empty() -> None:
    masked = dynamic(minimum=2, predictor=PredictorOptions(bias=-5.0))
    masked(DENSE.example_input(3))
    assert masked.seen.mask
    for mask in masked.seen.mask.values():
        assert mask.sum(dim=1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("detached", [True, False])
def test_only_joint_training_lets_the_heads_loss_reach_the_layers(detached: bool) -> None:
    masked = dynamic(detached=detached)
    masked.network.requires_grad_(True)
    masked(DENSE.example_input(2))
    head_loss(masked).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in masked.heads.parameters())
    reached = [p.grad is not None and bool(p.grad.any()) for p in masked.network.parameters()]
    assert any(reached) is not detached


def test_a_tasks_loss_never_reaches_a_head() -> None:
    masked = dynamic(detached=False)
    masked.network.requires_grad_(True)
    sum(v.sum() for v in masked(DENSE.example_input(2)).values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is None for p in masked.heads.parameters())


def draw(step: int) -> tuple[Tensor, Loss]:
    """Noise pictures whose answers are to become small."""

    def loss(outputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
        return torch.stack([value.square().mean() for value in outputs.values()]).sum()

    return DENSE.example_input(4, seed=step), loss


def test_heads_learn_their_targets_and_are_frozen_in_the_second_half() -> None:
    torch.manual_seed(0)
    masked = dynamic(threshold=0.7, predictor=PredictorOptions(bias=1.0))
    masked.network.requires_grad_(True)
    images = [DENSE.example_input(4, seed=99)]
    before = measure_masks(masked, images, MODEL)
    found = train(masked, draw, TrainOptions(40, learning_rate=1e-5, head_share=0.9))
    after = measure_masks(masked, images, MODEL)
    assert found["last_head_loss"] < found["first_head_loss"]
    assert before.accuracy == pytest.approx(before.always_on)
    assert before.kept == pytest.approx(1 + masked.head_macs / MODEL.macs({}))
    assert after.accuracy > after.always_on
    assert after.kept < before.kept
    heads = copy.deepcopy(masked.heads.state_dict())
    train(masked, draw, TrainOptions(3, learning_rate=1e-4, head_share=0.0))
    assert all(torch.equal(heads[k], v) for k, v in masked.heads.state_dict().items())


def test_macs_per_image_are_those_of_the_network_cut_for_it() -> None:
    keeps = [{s.name: k for s, k in zip(SITES, _masks(seed), strict=True)} for seed in range(3)]
    stacked = {s.name: torch.stack([keep[s.name] for keep in keeps]) for s in SITES}
    counted = sample_macs(MODEL, stacked, head_macs=7.0)
    for value, keep in zip(counted, keeps, strict=True):
        smaller = cut(DENSE, keep, GROUPS)
        exact = cost_model(smaller, channel_groups(smaller)).macs({})
        assert value == pytest.approx(exact + 7.0)


def _masks(seed: int) -> list[Tensor]:
    keep = random_keep(GROUPS, seed)
    return [keep[site.name] for site in SITES]


def test_depthwise_layers_are_charged_for_what_is_on() -> None:
    body = nn.Sequential(
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 4, 1)
    )
    network = Host(body, outputs=4).eval()
    groups = channel_groups(network)
    model = cost_model(network, groups)
    pixels = 64
    for gone in (0, 10, 15):
        on = 16 - gone
        work = float(model.macs({"body.0": gone})) - float(model.macs({"body.0": 16}))
        assert work == pixels * on * (8 + 9 + 4)


def test_the_estimate_rises_with_the_threshold_and_meets_a_budget() -> None:
    masked = dynamic()
    estimator = Estimator(masked, [DENSE.example_input(4)], MODEL)
    shares = [estimator.at(threshold).kept for threshold in (0.3, 0.6, 0.9, 1.0)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    chosen = estimator.threshold_for(0.5)
    assert chosen.kept <= 0.5 < estimator.at(min(1.0, chosen.threshold + 0.05)).kept
    assert chosen.kept_p95 >= chosen.kept
    with pytest.raises(UsageError, match="cannot be reached"):
        estimator.threshold_for(0.01)


def test_tasks_that_ask_for_less_get_less_and_masks_grow_with_the_request() -> None:
    weights = {s.name: torch.zeros(2, s.width) for s in SITES}
    for site in SITES:
        weights[site.name][0, : site.width // 2] = 1.0
        weights[site.name][1, site.width // 2 :] = 1.0
    masked = DynamicNetwork(copy.deepcopy(DENSE), SITES, MaskOptions(threshold=0.9), weights).eval()
    masked.mode = "target"
    images = DENSE.example_input(2)
    found = {}
    for tasks in (("parts",), ("distance",), ("parts", "distance")):
        masked(images, tasks)
        found[tasks] = {k: v.clone() for k, v in masked.seen.mask.items()}
    # Later groups see other activations when more is on; the first is where requests compare.
    first = masked.sites[0].name
    whole = found["parts", "distance"][first]
    assert torch.equal(found["parts",][first] | found["distance",][first], whole)
    assert found["parts",][first].sum() < whole.sum()
    torch.manual_seed(0)
    masked.network.requires_grad_(True)
    train(masked, draw, TrainOptions(4, learning_rate=1e-4))
    assert measure_masks(masked, [images], MODEL, ["parts"]).kept > 0


def test_dependence_tells_images_that_differ_from_images_that_do_not() -> None:
    width = {s.name: s.width for s in SITES}
    half = {k: torch.arange(w)[None].expand(8, -1) < w // 2 for k, w in width.items()}
    fixed = input_dependence(half, MODEL)
    assert fixed.mean == 0 and not fixed.enough
    turns = {k: mask ^ (torch.arange(8) % 2 == 1)[:, None] for k, mask in half.items()}
    differing = input_dependence(turns, MODEL)
    assert differing.mean == pytest.approx(1.0) and differing.enough
    assert differing.to_dict()["dependent_share"] == pytest.approx(1.0)


def test_overlap_of_tasks_is_one_for_equal_and_zero_for_disjoint_masks() -> None:
    a = {"g": torch.tensor([True, True, False, False])}
    found = task_overlap({"x": a, "y": a, "z": {"g": ~a["g"]}})
    assert found == {"x / y": 1.0, "x / z": 0.0, "y / z": 0.0}


def test_observing_leaves_the_mode_alone() -> None:
    masked = dynamic()
    mass = observe(masked, [DENSE.example_input(2), DENSE.example_input(3)])
    assert masked.mode == "predicted"
    assert {k: tuple(v.shape) for k, v in mass.items()} == {s.name: (5, s.width) for s in SITES}
    assert all(bool((v >= 0).all()) and np.isfinite(v.numpy()).all() for v in mass.values())


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"threshold": 0.0}, {"threshold": 2.0}, {"minimum": 0}):
        with pytest.raises(UsageError):
            MaskOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        TrainOptions(0)
