"""One construction at a time: what is coupled, what is fixed, and that masked equals cut."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.pruning import Host, random_keep
from torch import Tensor, nn

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import channel_groups


class Lambda(nn.Module):
    """Layers by name and a function that combines them."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(self, x)
        return out


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def widths(host: Host) -> dict[str, int]:
    return {group.name: group.width for group in channel_groups(host)}


def assert_cuts(host: Host) -> None:
    """Several random masks: masked equals cut, and something was there to cut."""
    groups = channel_groups(host)
    assert groups
    images = host.example_input(2, seed=3)
    for seed in range(3):
        keep = random_keep(groups, seed)
        smaller = cut(host, keep, groups)
        check_cut(host, keep, smaller, images, groups)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(8, 12, 3), conv(12, 8, 3)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(F.gelu(self.norm(self.a(x))))
        return out


def squeeze_excite(m: Lambda, x: Tensor) -> Tensor:
    x = m.a(x)
    gate = m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid()
    return x * gate


def dense_block(m: Lambda, x: Tensor) -> Tensor:
    y = torch.cat([x, m.a(x)], dim=1)
    return torch.cat([y, m.b(y), x], dim=1)


def flattened(m: Lambda, x: Tensor) -> Tensor:
    x = F.adaptive_avg_pool2d(m.a(x), 2).flatten(1)
    return m.fc(x)[:, :, None, None]


def stacked_shuffle(m: Lambda, x: Tensor) -> Tensor:
    return torch.stack([m.a(x), m.b(x)], dim=2).flatten(1, 2)


def twice(m: Lambda, x: Tensor) -> Tensor:
    return m.a(F.relu(m.a(x)))


def tied(m: Lambda, x: Tensor) -> Tensor:
    y = F.conv2d(x, m.a.weight, m.a.bias).relu()
    return F.conv_transpose2d(y, m.a.weight)


def gated(m: Lambda, x: Tensor) -> Tensor:
    value, gate = m.a(x).chunk(2, dim=1)
    return value * gate.tanh()


def in_place(m: Lambda, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(x)
    return y.relu_()


def upsampled(m: Lambda, x: Tensor) -> Tensor:
    y = F.max_pool2d(m.a(x), 2)
    return m.b(F.pad(F.interpolate(y, scale_factor=2, mode="bilinear"), (1, 0, 1, 0)))


def pixel_shuffled(m: Lambda, x: Tensor) -> Tensor:
    return F.avg_pool2d(m.b(F.pixel_shuffle(m.a(x), 2)), 2)


def per_head(m: Lambda, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    y = m.a(x).reshape(batch, -1, 4, height, width)  # heads of four channels, however many
    return m.b((y * y.softmax(dim=2)).flatten(1, 2))


def einsum(m: Lambda, x: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", F.relu(m.a(x)), m.fc.weight)


CONSTRUCTIONS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, int]]] = {
    "residual": (Residual, 8, {"stem": 8, "body.a": 12}),
    "depthwise": (lambda: nn.Sequential(conv(8, 8, 3, 8), conv(8, 6)), 6, {"stem": 8, "body.1": 6}),
    "depthwise multiplier": (
        lambda: nn.Sequential(conv(8, 16, 3, 8), conv(16, 6)),
        6,
        {"stem": 8, "body.1": 6},
    ),
    # four groups of 2 in and 3 out each: the share of each group shrinks alike
    "grouped": (
        lambda: nn.Sequential(conv(8, 12, 3, 4), nn.PReLU(12)),
        12,
        {"stem": 2, "body.0": 3},
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 10, 2, 2), nn.AvgPool2d(2)),
        10,
        {"stem": 8, "body.0": 10},
    ),
    "squeeze and excite": (
        lambda: Lambda(squeeze_excite, a=conv(8, 10), down=conv(10, 4), up=conv(4, 10)),
        10,
        {"stem": 8, "body.a": 10, "body.down": 4},
    ),
    "dense block": (
        lambda: Lambda(dense_block, a=conv(8, 5), b=conv(13, 4)),
        25,
        {"stem": 8, "body.a": 5, "body.b": 4},
    ),
    "flatten": (
        lambda: Lambda(flattened, a=conv(8, 6), fc=nn.Linear(24, 7)),
        7,
        {"stem": 8, "body.a": 6, "body.fc": 7},
    ),
    "stacked shuffle": (
        lambda: Lambda(stacked_shuffle, a=conv(8, 6), b=conv(8, 6)),
        12,
        {"stem": 8, "body.a": 6},
    ),
    "layer used twice": (lambda: Lambda(twice, a=conv(8, 8)), 8, {"stem": 8}),
    "tied weights": (lambda: Lambda(tied, a=conv(8, 6)), 8, {"stem": 8, "body.a": 6}),
    "gated halves": (lambda: Lambda(gated, a=conv(8, 12)), 6, {"stem": 8, "body.a": 6}),
    "in place": (lambda: Lambda(in_place, a=conv(8, 6), b=conv(8, 6)), 6, {"stem": 8, "body.a": 6}),
    "up, down and padded": (
        lambda: Lambda(upsampled, a=conv(8, 6), b=nn.Conv2d(6, 5, 2)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "pixel shuffle": (
        lambda: Lambda(pixel_shuffled, a=conv(8, 20), b=conv(5, 6, 3)),
        6,
        {"stem": 8, "body.a": 5, "body.b": 6},
    ),
    "softmax inside heads": (
        lambda: Lambda(per_head, a=conv(8, 24), b=conv(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "einsum": (
        lambda: Lambda(einsum, a=conv(8, 6), fc=nn.Linear(6, 9, bias=False)),
        9,
        {"stem": 8, "body.a": 6, "body.fc": 9},
    ),
    "instance norm": (
        lambda: nn.Sequential(conv(8, 6), nn.InstanceNorm2d(6, affine=True), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    "group norm": (
        lambda: nn.Sequential(conv(8, 12), nn.GroupNorm(4, 12), conv(12, 5)),
        5,
        {"stem": 8, "body.0": 4, "body.2": 5},
    ),
    "shuffle as an operator": (
        lambda: Lambda(shuffled_by_number, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 3, "body.b": 5},
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_construction_is_grouped_and_cut(name: str) -> None:
    make, outputs, expected = CONSTRUCTIONS[name]
    torch.manual_seed(0)
    host = Host(make(), outputs)
    assert widths(host) == expected
    assert_cuts(host)


def softmax_over_channels(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x).softmax(dim=1))


def channel_mean(m: Lambda, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y - y.mean(dim=1, keepdim=True))


def sliced(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x)[:, :4])


def sorted_channels(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x).sort(dim=1).values)


def rolled(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x).roll(1, dims=1))


def constant(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x) * torch.linspace(0, 1, 6).view(1, 6, 1, 1))


def written_into(m: Lambda, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 6, *x.shape[2:])
    y[:, :] = m.a(x)
    return m.b(y)


def uneven(m: Lambda, x: Tensor) -> Tensor:
    left, right = m.a(x).split([2, 4], dim=1)
    return m.b(torch.cat([left.relu(), right], dim=1))


def hard_split(m: Lambda, x: Tensor) -> Tensor:
    left, right = m.a(x).split(3, dim=1)
    return m.b(torch.cat([left * right, right], dim=1))


def hard_view(m: Lambda, x: Tensor) -> Tensor:
    return m.b(m.a(x).view(x.shape[0], 6, *x.shape[2:]))


def computed_weight(m: Lambda, x: Tensor) -> Tensor:
    return m.c(F.conv2d(m.a(x), m.b.weight.tanh(), m.b.bias))


def shuffled_by_number(m: Lambda, x: Tensor) -> Tensor:
    return m.b(F.channel_shuffle(m.a(x), 2))


FIXED: dict[str, Callable[[], nn.Module]] = {
    "one norm over all": lambda: nn.Sequential(conv(8, 6), nn.GroupNorm(1, 6), conv(6, 5)),
    "softmax over channels": lambda: Lambda(softmax_over_channels, a=conv(8, 6), b=conv(6, 5)),
    "mean over channels": lambda: Lambda(channel_mean, a=conv(8, 6), b=conv(6, 5)),
    "slice by number": lambda: Lambda(sliced, a=conv(8, 6), b=conv(4, 5)),
    "unknown operator": lambda: Lambda(sorted_channels, a=conv(8, 6), b=conv(6, 5)),
    "rolled": lambda: Lambda(rolled, a=conv(8, 6), b=conv(6, 5)),
    "constant of its width": lambda: Lambda(constant, a=conv(8, 6), b=conv(6, 5)),
    "written into zeros": lambda: Lambda(written_into, a=conv(8, 6), b=conv(6, 5)),
    "uneven split": lambda: Lambda(uneven, a=conv(8, 6), b=conv(6, 5)),
    "split by number": lambda: Lambda(hard_split, a=conv(8, 6), b=conv(6, 5)),
    "computed weight": lambda: Lambda(computed_weight, a=conv(8, 6), b=conv(6, 7), c=conv(7, 5)),
    "view by number": lambda: Lambda(hard_view, a=conv(8, 6), b=conv(6, 5)),
}


@pytest.mark.parametrize("name", FIXED)
def test_what_depends_on_the_width_is_never_cut(name: str) -> None:
    torch.manual_seed(0)
    host = Host(FIXED[name](), 5)
    found = widths(host)
    inner = [key for key in found if key in ("body.0", "body.a")]
    assert not inner, found
    assert found["stem"] == 8 and 5 in found.values()
    assert_cuts(host)


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
    assert widths(host) == {"stem": 8}
    smaller = copy.deepcopy(cut(host, {"stem": torch.arange(8) < 5}))
    assert isinstance(smaller, Host) and isinstance(smaller.body, nn.Sequential)
    assert smaller.body[0].weight is smaller.body[2].weight
    assert_cuts(host)
