"""The closed form: exact where it can be, least squares where it cannot, constants included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.pruning import Host, random_keep
from torch import Tensor, nn

from edgemtl.compress.batches import Prepared, images_of
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation import moments as moments_module
from edgemtl.compress.compensation.curves import curve
from edgemtl.compress.compensation.moments import Moments, collect
from edgemtl.compress.compensation.solve import compensated, solve
from edgemtl.models import MultiTaskNetwork

SIZE = (16, 16)


def prepared_images(count: int, seed: int = 0, labelled: bool = True) -> list[Prepared]:
    """Noise on the canvas, with labels of both of the host's tasks."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        labels = {
            "segmentation": rng.integers(0, 3, SIZE),
            "depth": rng.uniform(1, 5, SIZE).astype(np.float32),
        }
        canvas = rng.normal(size=(3, *SIZE)).astype(np.float16)
        found.append(Prepared(canvas, labels if labelled else {}))
    return found


def host(second: nn.Module, copies: bool = False) -> MultiTaskNetwork:
    """A host whose body's second layer reads 12 channels; with ``copies`` half are dependent."""
    torch.manual_seed(0)
    first = nn.Conv2d(8, 12, 3, padding=1)
    network = Host(nn.Sequential(first, nn.Identity(), second), 4)
    if copies:
        with torch.no_grad():
            mix = torch.randn(6, 6)
            first.weight[6:] = torch.einsum("oi,ichw->ochw", mix, first.weight[:6])
            first.bias[6:] = mix @ first.bias[:6] + 0.7  # a constant beside: the bias takes it
    return network


def group_of(network: MultiTaskNetwork, name: str) -> tuple[ChannelGroup, Sequence[ChannelGroup]]:
    groups = channel_groups(network)
    return next(group for group in groups if group.name == name), groups


SECONDS = {
    "plain": lambda: nn.Conv2d(12, 4, 3, 1, 1, padding_mode="replicate"),
    "norm": lambda: nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)),
    "pointwise": lambda: nn.Conv2d(12, 4, 1),
}


@pytest.mark.parametrize("kind", list(SECONDS))
def test_what_depends_linearly_on_the_rest_goes_without_a_trace(kind: str) -> None:
    network = host(SECONDS[kind](), copies=True)
    group, groups = group_of(network, "body.0")
    moments = collect(network, groups, prepared_images(16))
    keep = {group.name: torch.arange(12) < 6}
    found = solve(network, groups, keep, moments, ridge=1e-7)
    assert min(found.explained.values()) > 0.9999
    smaller = cut(compensated(network, found.weights), keep, groups)
    images = images_of(prepared_images(4, seed=9))
    with torch.no_grad():
        before, after, bare = network(images), smaller(images), cut(network, keep, groups)(images)
    for name, value in before.items():
        span = float(value.max() - value.min())
        torch.testing.assert_close(after[name], value, rtol=0, atol=2e-3 * span)
        if name.startswith("parts"):
            assert float((bare[name] - value).abs().max()) > 0.05 * span


def _rows(network: MultiTaskNetwork, reader: nn.Module, images: Tensor) -> Tensor:
    """(n, features) of a padded 3x3 convolution by torch's own unfold."""
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    unfolded = nn.functional.unfold(seen[0], 3, padding=1)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]).double()


def test_it_is_the_least_squares_solution() -> None:
    second = nn.Conv2d(12, 4, 3, 1, 1)
    network = host(second)
    group, groups = group_of(network, "body.0")
    data = prepared_images(16)
    moments = collect(network, groups, data, minded=0.0)
    keep = {group.name: torch.arange(12) % 3 > 0}
    found = solve(network, groups, keep, moments, ridge=1e-9)
    rows = _rows(network, second, images_of(data))
    weight = second.weight.detach().double().reshape(4, -1)
    stays = keep[group.name].repeat_interleave(9)
    wanted = rows @ weight.T
    system = torch.cat([torch.ones(len(rows), 1).double(), rows[:, stays]], dim=1)
    best = torch.linalg.lstsq(system, wanted).solution  # the whole new weight, and the constant
    new = found.weights["body.2.weight"].double().reshape(4, -1)[:, stays]
    torch.testing.assert_close(new, best[1:].T, rtol=0, atol=2e-3 * float(weight.abs().max()))
    shift = found.weights["body.2.bias"] - second.bias.detach()
    torch.testing.assert_close(shift.double(), best[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "second",
    [
        lambda: nn.Conv2d(12, 4, 3, 2, 1, groups=2),
        lambda: nn.ConvTranspose2d(12, 4, 4, 2, 1),
        lambda: nn.Conv2d(12, 4, 3, 1, 2, dilation=2),
    ],
)
def test_every_kind_of_reader_loses_less_with_it(second: type[nn.Module]) -> None:
    network = host(second())
    groups = channel_groups(network)
    data = prepared_images(24)
    moments = collect(network, groups, data)
    keep = random_keep(groups, 3, 0.7)
    found = solve(network, groups, keep, moments)
    images = images_of(prepared_images(8, seed=5))
    with torch.no_grad():
        dense = network(images)
        plain = cut(network, keep, groups)(images)
        better = cut(compensated(network, found.weights), keep, groups)(images)
    for name, value in dense.items():
        assert (better[name] - value).pow(2).mean() < (plain[name] - value).pow(2).mean()


def test_a_system_of_several_blocks_is_solved_block_by_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One call for several did not come back on two threads (torch 2.13.0, oneMKL 2024.2)."""
    network = host(nn.Conv2d(12, 4, 3, 2, 1, groups=2))
    groups = channel_groups(network)
    keep, moments = random_keep(groups, 3, 0.7), _moments(network, groups)
    whole, seen = torch.linalg.solve, []

    def one(system: Tensor, side: Tensor) -> Tensor:
        seen.append(system.dim())
        return whole(system, side)

    monkeypatch.setattr(torch.linalg, "solve", one)
    found = solve(network, groups, keep, moments)
    blocks = [len(moments.grams[name]) for name in found.explained]
    assert max(blocks) == 2 and seen == [2] * sum(blocks)


def _moments(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> Moments:
    return collect(network, groups, prepared_images(16), minded=0.0)


def test_a_curve_says_what_solving_says() -> None:
    network = host(nn.Conv2d(12, 4, 3, 1, 1))
    group, groups = group_of(network, "body.0")
    moments = _moments(network, groups)
    found = curve(network, group, moments, torch.ones(2).double(), 3)
    assert len(found.order) == 9 and len(set(found.order)) == 9
    assert bool((found.error[1:] >= found.error[:-1]).all())
    for width in (10, 6, 3):
        keep = {group.name: found.keep(12, width)}
        assert int(keep[group.name].sum()) == width
        # Elimination minimises the error with its ridge; solving reports the error without it.
        exact = solve(network, groups, keep, moments).error
        told = found.error[12 - width]
        assert bool((told >= exact * 0.999).all()) and bool((told <= exact * 1.2 + 1e-9).all())


def test_the_first_channel_to_go_is_the_one_that_costs_least() -> None:
    network = host(nn.Conv2d(12, 4, 3, 1, 1))
    group, groups = group_of(network, "body.0")
    moments = _moments(network, groups)
    found = curve(network, group, moments, torch.ones(2).double(), 8)
    costs = []
    for unit in range(12):
        keep = {group.name: torch.arange(12) != unit}
        costs.append(float(solve(network, groups, keep, moments).error.sum()))
    assert found.order[0] == int(np.argmin(costs))


def test_images_without_labels_and_few_images_will_do() -> None:
    network = host(nn.Conv2d(12, 4, 3, 1, 1))
    groups = channel_groups(network)
    moments = collect(network, groups, prepared_images(1, labelled=False))
    assert moments.labelled == (False, False)
    assert len(moments.notes) == 2 and "own answers" in moments.notes[0]
    assert all(bool(fisher.gt(0).any()) for fisher in moments.fisher.values())
    keep = random_keep(groups, 1, 0.5)
    found = solve(network, groups, keep, moments)
    with torch.no_grad():
        smaller = cut(compensated(network, found.weights), keep, groups)
        answers = smaller(images_of(prepared_images(2, seed=4)))
    assert all(bool(value.isfinite().all()) for value in answers.values())


def test_a_constant_image_is_met_by_the_ridge() -> None:
    network = host(nn.Conv2d(12, 4, 3, 1, 1))
    groups = channel_groups(network)
    grey = [Prepared(np.zeros((3, *SIZE), np.float16), one.labels) for one in prepared_images(4)]
    moments = collect(network, groups, grey)
    found = solve(network, groups, random_keep(groups, 2, 0.5), moments)
    assert all(bool(value.isfinite().all()) for value in found.weights.values())
    for group in groups:
        scale = torch.ones(2).double()
        assert bool(curve(network, group, moments, scale, 2).error.isfinite().all())


@pytest.mark.parametrize("bias", [False, True])
def test_a_pass_finds_the_same_with_norms_folded(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = nn.BatchNorm2d(4)
    network = host(nn.Sequential(nn.Conv2d(12, 4, 3, 1, 1, bias=bias), norm))
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 2)
    groups = channel_groups(network)
    folded = collect(network, groups, prepared_images(8))
    folds: list[int] = []
    fold = moments_module.fold_norms

    def left(network: MultiTaskNetwork, images: Tensor) -> tuple[MultiTaskNetwork, dict[str, Any]]:
        folds.append(len(fold(network, images)[1]))
        return network, {}

    monkeypatch.setattr(moments_module, "fold_norms", left)
    plain = collect(network, groups, prepared_images(8))
    assert folds[0] > 0 and folded.readers == plain.readers
    wanted = ("bias", "body.2.0.bias") if bias else ("mean", "body.2.1.running_mean")
    assert folded.readers["body.2.0.weight"].constant == wanted
    for name, gram in plain.grams.items():
        torch.testing.assert_close(folded.grams[name], gram, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(folded.fisher[name], plain.fisher[name], rtol=1e-3, atol=1e-9)
