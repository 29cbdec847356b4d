"""Numbers in modules that follow a cut and numbers that do not; weights that modules share.

Which channels go together is tested construction by construction in test_discover_constructions.py.
"""

from __future__ import annotations

import copy

import torch
from support.pruning import Host, random_keep
from torch import Tensor, nn

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import channel_groups


def conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def assert_cuts(host: Host) -> None:
    """Several random masks: masked equals cut, and something was there to cut."""
    groups = channel_groups(host)
    assert groups
    images = host.example_input(2, seed=3)
    for seed in range(3):
        keep = random_keep(groups, seed)
        check_cut(host, keep, cut(host, keep, groups), images, groups)


class NumberedSplit(nn.Module):
    """Splits by a number it keeps, beside numbers of the same value that mean something else."""

    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.hidden = hidden
        self.kernel = 3  # as large as ``hidden``, and not to be touched
        self.enter = conv(8, 2 * hidden)
        self.inner = conv(hidden, hidden, 3)
        self.leave = conv(3 * hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).split((self.hidden, self.hidden), dim=1)
        assert self.kernel == 3
        out: Tensor = self.leave(torch.cat([left, right, self.inner(right)], dim=1))
        return out


def test_a_number_in_a_module_follows_and_its_neighbour_does_not() -> None:
    torch.manual_seed(0)
    host = Host(NumberedSplit(), 5)
    groups = {group.name: group for group in channel_groups(host)}
    assert groups["body.enter"].width == 3
    assert [(a.module, a.name) for a in groups["body.enter"].attributes] == [("body", "hidden")]
    keep = {"body.enter": torch.tensor([True, False, True])}
    smaller = cut(host, keep)
    assert isinstance(smaller, Host) and isinstance(smaller.body, NumberedSplit)
    assert (smaller.body.hidden, smaller.body.kernel) == (2, 3)
    check_cut(host, keep, smaller, host.example_input())
    assert_cuts(host)


def test_weight_shared_by_two_modules_stays_shared() -> None:
    torch.manual_seed(0)
    first, second = conv(8, 8), conv(8, 8)
    second.weight = first.weight
    host = Host(nn.Sequential(first, nn.ReLU(), second), 8)
    assert {group.name: group.width for group in channel_groups(host)} == {"stem": 8}
    smaller = copy.deepcopy(cut(host, {"stem": torch.arange(8) < 5}))
    assert isinstance(smaller, Host) and isinstance(smaller.body, nn.Sequential)
    assert smaller.body[0].weight is smaller.body[2].weight
    assert_cuts(host)
