"""What cannot be cut is listed with its reason; what Python counts is found before any search."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.bodies import Body
from support.pruning import Host, networks, random_keep
from torch import Tensor, nn

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import discover
from edgemtl.compress.channels.groups import snapped_widths
from edgemtl.compress.channels.rehearsal import Rehearsal, training_problem
from edgemtl.compress.channels.trial import settle


def two_layers(run: Callable[..., Tensor], width: int = 32) -> Host:
    torch.manual_seed(0)
    return Host(Body(run, a=nn.Conv2d(8, width, 1), b=nn.Conv2d(width, 5, 1)), 5)


def by_width(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y) if y.shape[1] > 20 else -m.b(y)


def by_root(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y / y.shape[1] ** 0.5)


def by_sum(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y) + 1e-3 * y.shape[1]


def written_down(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y.view(x.shape[0], 32, *x.shape[2:]))


def unknown(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y + torch.linalg.matrix_exp(y[:, :, :8, :8]).mean((2, 3), keepdim=True))


def softmax(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).softmax(1))


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (by_width, "code depends on how many there are"),
        (by_root, "code depends on how many there are"),
        (by_sum, "code depends on how many there are"),
        (written_down, "a forward counts them by hand at test_discover_networks.py:"),
        (unknown, "meet the operator 'linalg_matrix_exp', which is not known"),
        (softmax, "share one softmax (body at test_discover_networks.py:"),
    ],
)
def test_what_stays_is_listed_with_the_reason(run: Callable[..., Tensor], reason: str) -> None:
    host = two_layers(run)
    found = discover(host)
    assert {group.name for group in found.groups} == {"stem", "body.b"}
    (stays,) = [item for item in found.whole if item.module == "body.a"]
    assert (stays.tensor, stays.dim, stays.channels) == ("body.a.weight", 0, 32)
    assert reason in stays.reason
    for seed in range(3):
        keep = random_keep(found.groups, seed)
        smaller = cut(host, keep, found.groups)
        check_cut(host, keep, smaller, host.example_input(2), found.groups)


def test_one_unit_less_does_not_show_a_branch_and_the_narrowest_width_does() -> None:
    """That is why both are tried."""
    host = two_layers(by_width)
    group = next(g for g in discover(two_layers(lambda m, x: m.b(m.a(x)))).groups if g.width == 32)
    keep = {group.name: torch.arange(32) > 0}
    smaller = cut(host, keep, [group])
    check_cut(host, keep, smaller, host.example_input(), [group])
    assert Rehearsal(host).problem([group]) is not None


def test_groups_of_one_width_are_tried_at_different_ones() -> None:
    """Code that takes one group's width for another's works while both lose as much."""

    def run(m: Body, x: Tensor) -> Tensor:
        y = m.a(x)
        z = m.b(y)
        return m.c(z.reshape(z.shape[0], y.shape[1], *z.shape[2:]))

    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(8, 12, 1), "b": nn.Conv2d(12, 12, 1), "c": nn.Conv2d(12, 5, 1)}
    host = Host(Body(run, **layers), 5)
    found = discover(host)
    assert {group.name for group in found.groups} == {"stem", "body.c"}
    assert {item.module for item in found.whole} >= {"body.a", "body.b"}


def test_a_branch_that_starts_at_zero_does_not_hide_what_is_wrong() -> None:
    def run(m: Body, x: Tensor) -> Tensor:
        y = m.a(x)
        return x + m.b(y / y.shape[1]) * m.scale.weight.view(1, -1, 1, 1)

    torch.manual_seed(0)
    scale = nn.PReLU(8)
    layers = {"a": nn.Conv2d(8, 32, 1), "b": nn.Conv2d(32, 8, 1), "scale": scale}
    host = Host(Body(run, **layers), 8)
    with torch.no_grad():
        scale.weight.fill_(1e-7)
    assert {group.name for group in discover(host).groups} == {"stem"}


def test_a_silent_weight_that_must_not_speak_is_left_alone() -> None:
    """A scale of zero in an exponent of a thousand: any other value overflows."""

    def run(m: Body, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y * (m.scale.weight * 1000).exp().sum())

    torch.manual_seed(0)
    scale = nn.PReLU(8)
    host = Host(Body(run, a=nn.Conv2d(8, 6, 1), b=nn.Conv2d(6, 5, 1), scale=scale), 5)
    with torch.no_grad():
        scale.weight.zero_()
    assert {group.name for group in discover(host).groups} == {"stem", "body.a", "body.b"}


class Auxiliary(nn.Module):
    """A head that only training computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.b, self.extra = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.dropout(self.norm(self.a(x)), 0.1, self.training)
        out: Tensor = self.b(y)
        return out + self.extra(y).mean() if self.training else out


def test_a_head_that_only_training_computes_is_cut_along() -> None:
    torch.manual_seed(0)
    host = Host(Auxiliary(), 5)
    before = copy.deepcopy(host.state_dict())
    states = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    found = discover(host)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert not host.training
    assert all(torch.equal(value, before[key]) for key, value in host.state_dict().items())
    group = next(g for g in found.groups if g.name == "body.a")
    assert ("body.extra.weight", 1) in {(m.tensor, m.dim) for m in group.with_role("consumer")}
    smaller = cut(host, {"body.a": torch.arange(16) < 3}, found.groups)
    answers = smaller.train()(smaller.example_input(2))
    sum(value.mean() for value in answers.values()).backward()  # type: ignore[union-attr]


def test_training_that_counts_by_hand_is_found() -> None:
    class Counts(Auxiliary):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if self.training:
                y = y.view(x.shape[0], 16, *x.shape[2:])
            out: Tensor = self.b(y)
            return out

    torch.manual_seed(0)
    host = Host(Counts(), 5)
    found = discover(host)
    assert "body.a" not in {group.name for group in found.groups}
    stays = next(item for item in found.whole if item.module == "body.a")
    assert stays.reason.startswith("in training mode, a forward counts them by hand at test_disc")


def test_a_network_that_cannot_be_trained_as_it_is_loses_nothing() -> None:
    def needs_labels(m: Body, x: Tensor) -> Tensor:
        if m.training:
            raise ValueError("labels, please")
        return m.b(m.a(x))

    host = two_layers(needs_labels)
    found = discover(host)
    assert training_problem(host, found.groups) is None
    assert {group.name for group in found.groups} == {"stem", "body.a", "body.b"}


def test_outputs_are_listed_by_name() -> None:
    host = two_layers(lambda m, x: m.b(m.a(x)))
    (stays,) = discover(host).whole
    assert (stays.module, stays.channels) == ("parts", 3)
    assert stays.reason == "their number is that of output 'parts.logits' of task 'parts'"


def test_shares_of_work() -> None:
    """1x1 convolutions of 8 x 8 places behind a stem of 3 x 3: by hand."""
    host = two_layers(by_width)
    found = discover(host)
    macs = {item.tensor: item.macs for item in found.work}
    assert macs == {
        "stem.weight": 64 * 8 * 3 * 9,
        "body.a.weight": 64 * 8 * 32,
        "body.b.weight": 64 * 32 * 5,
        "parts.weight": 64 * 5 * 3,
        "distance.weight": 64 * 8,
    }
    total = sum(macs.values())
    shares = {item.tensor: item.macs_share for item in found.whole}
    assert shares["body.a.weight"] == pytest.approx(macs["body.a.weight"] / total)
    assert found.whole_share == pytest.approx(sum(shares.values()))
    # the stem comes down to one of 8, body.b to one of 5
    lowest = 64 * (3 * 9 + 32 + 32 + 3 + 1)
    assert found.lowest_share(1) == pytest.approx(lowest / total)
    assert found.lowest_share(8) == 1.0  # nothing narrower is a multiple of 8


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-vit"])
def test_the_lowest_share_is_that_of_the_cut_network(name: str) -> None:
    network = networks()[name]
    found = discover(network)
    keep = {g.name: torch.arange(g.width) < snapped_widths(g, 4)[0] for g in found.groups}
    smaller = discover(cut(network, keep, found.groups))
    work = sum(item.macs for item in smaller.work), sum(item.macs for item in found.work)
    # attention's own products, which read no weight, are taken to stay
    products = [sum(i.macs for i in d.work if not i.tensor) for d in (smaller, found)]
    lowest = found.lowest_share(4)
    assert lowest == pytest.approx((work[0] - products[0] + products[1]) / work[1])
    assert lowest < 0.9


def test_all_is_told_of_a_network_of_the_projects_own() -> None:
    network = networks()["tiny-vit"]
    found = discover(network)
    reasons = {item.tensor: item.reason for item in found.whole}
    assert reasons["patch.weight"].startswith("share the mean and variance of one norm (")
    taken = {m.tensor for g in found.groups for m in g.with_role("producer")}
    wide = {
        name for name, p in network.named_parameters() if sum(size > 1 for size in p.shape) > 1
    } - {"decoders.distance.3.weight"}  # writes one channel
    assert wide <= taken | set(reasons)
    assert 0 < found.whole_share < 1


def test_halving_finds_the_ones_that_fail() -> None:
    host = two_layers(lambda m, x: m.b(m.a(x)))
    groups = list(discover(host).groups) * 4
    from dataclasses import replace

    groups = [replace(group, name=str(number)) for number, group in enumerate(groups)]
    asked: list[int] = []

    def problem(some: object) -> str | None:
        names = {group.name for group in some}  # type: ignore[attr-defined]
        asked.append(len(names))
        if "7" in names:
            return "seven"
        return "both" if {"2", "9"} <= names else None

    refused: dict[str, tuple[object, str]] = {}
    left = settle(groups, problem, refused)  # type: ignore[arg-type]
    assert [g.name for g in left] == [str(n) for n in range(12) if n not in (7, 9)]
    assert refused["7"][1] == "seven"
    assert refused["9"][1] == "cannot go together with others: both"
    assert len(asked) < 24
