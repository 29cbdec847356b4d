"""Layers that join, normalise, unfold and remember channels: what is a unit, and that it cuts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from support.bodies import Body, tokens
from support.pruning import Host, random_keep
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.errors import InputRefused
from edgemtl.models.surgery import apply_records


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def image(t: Tensor, like: Tensor) -> Tensor:
    return t.transpose(1, 2).unflatten(2, like.shape[2:])


def recurrent(m: Body, x: Tensor) -> Tensor:
    return image(m.b(m.a(tokens(x))[0]), x)


def unpooled(m: Body, x: Tensor) -> Tensor:
    y, places = F.max_pool2d(m.a(x), 2, return_indices=True)
    return m.c(F.max_unpool2d(m.b(y).relu(), places, 2))


def unfolded(m: Body, x: Tensor) -> Tensor:
    columns = F.unfold(m.a(x), 3, padding=1)
    return image(m.b(columns.transpose(1, 2)), x)


def folded(m: Body, x: Tensor) -> Tensor:
    columns = m.a(tokens(x)).transpose(1, 2)
    return m.b(F.fold(columns, (16, 16), 2, stride=2))[:, :, ::2, ::2]


def circular(m: Body, x: Tensor) -> Tensor:
    return m.b(F.pad(m.a(x), (1, 1, 1, 1), mode="circular"))


def glu(m: Body, x: Tensor) -> Tensor:
    return m.b(F.glu(m.a(x), dim=1))


def to_depth(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    b, c, h, w = y.shape
    y = y.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return m.b(y.reshape(b, 4 * c, h // 2, w // 2))


def halves_by_slices(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    half = y.shape[1] // 2
    return m.b(y[:, :half] * y[:, half:].sigmoid())


def shifted_back(m: Body, x: Tensor) -> Tensor:
    """Padding of channels-last tensors, as windowed attention does."""
    y = F.pad(m.a(x).permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).roll((1, 1), (1, 2))
    return m.b(y.permute(0, 3, 1, 2))[:, :, :8, :8]


def written_by_hand(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    larger = y.new_zeros(y.shape[0], y.shape[1], 10, 10)
    larger[:, :, 1:9, 1:9] = y
    return m.b(larger)[:, :, :8, :8]


def experts_in_out(m: Body, x: Tensor) -> Tensor:
    hidden = torch.einsum("bnd,edh->benh", tokens(x), m.up.weight).relu()
    each = torch.einsum("benh,eho->beno", hidden, m.down.weight)
    gate = m.gate(tokens(x)).softmax(-1)
    return image(torch.einsum("beno,bne->bno", each, gate), x)


def experts_by_bmm(m: Body, x: Tensor) -> Tensor:
    t = tokens(x)
    flat = t.flatten(0, 1)[None].expand(3, -1, -1)
    hidden = torch.baddbmm(m.up.bias, flat, m.up.weight).relu()
    each = torch.bmm(hidden, m.down.weight).unflatten(1, t.shape[:2])
    return image((each * m.gate(t).softmax(-1).permute(2, 0, 1)[..., None]).sum(0), x)


class Stack(nn.Module):
    """Weights of three experts in one tensor."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(3, 1, outputs)) if bias else None


class Recurrence(nn.Module):
    """A convolutional GRU with a state of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.gates, self.new = conv(14, 12, 3), conv(14, 6, 3)
        self.out = conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])
        for _ in range(2):
            update, reset = self.gates(torch.cat([x, state], 1)).sigmoid().chunk(2, 1)
            new = self.new(torch.cat([x, reset * state], 1)).tanh()
            state = (1 - update) * state + update * new
        out: Tensor = self.out(state)
        return out


@dataclass(frozen=True)
class Widths:
    """A frozen configuration."""

    left: int = 4
    right: int = 8


class Uneven(nn.Module):
    """Splits by numbers that it keeps: in a tuple, a list, a dictionary or an object."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.sizes: object = {
            "tuple": (4, 8), "list": [4, 8], "dict": {"left": 4, "right": 8}, "object": Widths(),
        }[kind]  # fmt: skip
        self.a, self.b, self.c = conv(8, 12), conv(4, 3), conv(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        sizes = self.sizes
        if isinstance(sizes, Widths):
            sizes = (sizes.left, sizes.right)
        elif isinstance(sizes, dict):
            sizes = list(sizes.values())
        left, right = self.a(x).split(sizes, dim=1)
        out: Tensor = self.c(torch.cat([right, self.b(left)], 1))
        return out


class Sliced(nn.Module):
    """Cuts parts out by a number that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 4
        self.a, self.b, self.c = conv(8, 12), conv(4, 3), conv(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.c(torch.cat([y[:, self.first :], self.b(y[:, : self.first])], 1))
        return out


LAYERS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "group norm behind a sum": (
        lambda: Body(
            lambda m, x: m.c(m.n(m.a(x) + m.b(x))),
            a=conv(8, 12), b=conv(8, 12), n=nn.GroupNorm(3, 12), c=conv(12, 5),
        ),
        {"stem": 8, "body.a": 3, "body.c": 5},
    ),
    "depthwise, transposed": (
        lambda: nn.Sequential(conv(8, 6), nn.ConvTranspose2d(6, 6, 2, 2, groups=6), conv(6, 5)),
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    "depthwise, transposed, two each": (
        lambda: nn.Sequential(conv(8, 6), nn.ConvTranspose2d(6, 12, 2, 2, groups=6), conv(12, 5)),
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    "grouped, transposed": (
        lambda: nn.Sequential(conv(8, 6), nn.ConvTranspose2d(6, 8, 2, 2, groups=2), conv(8, 5)),
        {"stem": 8, "body.0": 3, "body.1": 4, "body.2": 5},
    ),
    "unpooled": (
        lambda: Body(unpooled, a=conv(8, 6), b=conv(6, 6), c=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.c": 5},
    ),
    "gru": (
        lambda: Body(recurrent, a=nn.GRU(8, 6, batch_first=True), b=nn.Linear(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "gru, both ways": (
        lambda: Body(
            recurrent, a=nn.GRU(8, 6, batch_first=True, bidirectional=True), b=nn.Linear(12, 5)
        ),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "lstm": (
        lambda: Body(recurrent, a=nn.LSTM(8, 6, batch_first=True), b=nn.Linear(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "lstm of two layers": (
        lambda: Body(recurrent, a=nn.LSTM(8, 6, 2, batch_first=True), b=nn.Linear(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "convolutional gru": (Recurrence, {"stem": 8, "body.gates": 6, "body.out": 5}),
    "unfold": (
        lambda: Body(unfolded, a=conv(8, 6), b=nn.Linear(54, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "fold": (
        lambda: Body(folded, a=nn.Linear(8, 24), b=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "circular padding": (
        lambda: Body(circular, a=conv(8, 6), b=nn.Conv2d(6, 5, 3)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "padding_mode circular": (
        lambda: nn.Sequential(
            conv(8, 6), nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular")
        ),
        {"stem": 8, "body.0": 6, "body.1": 5},
    ),
    "glu": (
        lambda: Body(glu, a=conv(8, 12), b=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "halves by slices": (
        lambda: Body(halves_by_slices, a=conv(8, 12), b=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "space to depth": (
        lambda: Body(to_depth, a=conv(8, 6), b=conv(24, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "padded and rolled, channels last": (
        lambda: Body(shifted_back, a=conv(8, 6), b=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "written into a larger map": (
        lambda: Body(written_by_hand, a=conv(8, 6), b=conv(6, 5)),
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    "weight norm": (
        lambda: nn.Sequential(
            weight_norm(conv(8, 6, 3)), nn.ReLU(), weight_norm(conv(6, 5)),
        ),
        {"stem": 8, "body.0.parametrizations.weight": 6, "body.2.parametrizations.weight": 5},
    ),
    "weight norm, transposed": (
        lambda: nn.Sequential(conv(8, 6), weight_norm(nn.ConvTranspose2d(6, 5, 2, 2))),
        {"stem": 8, "body.0": 6},
    ),
    "experts by einsum": (
        lambda: Body(experts_in_out, up=Stack(8, 6), down=Stack(6, 5), gate=nn.Linear(8, 3)),
        {"stem": 8, "body.up": 6, "body.down": 5},
    ),
    "experts by bmm": (
        lambda: Body(
            experts_by_bmm, up=Stack(8, 6, bias=True), down=Stack(6, 5), gate=nn.Linear(8, 3)
        ),
        {"stem": 8, "body.up": 6, "body.down": 5},
    ),
    "sizes in a tuple": (
        lambda: Uneven("tuple"), {"stem": 8, "body.a": 4, "body.a#1": 8, "body.b": 3, "body.c": 5},
    ),
    "sizes in a list": (
        lambda: Uneven("list"), {"stem": 8, "body.a": 4, "body.a#1": 8, "body.b": 3, "body.c": 5},
    ),
    "sizes in a dictionary": (
        lambda: Uneven("dict"), {"stem": 8, "body.a": 4, "body.a#1": 8, "body.b": 3, "body.c": 5},
    ),
    "sizes in an object": (
        lambda: Uneven("object"), {"stem": 8, "body.a": 4, "body.a#1": 8, "body.b": 3, "body.c": 5},
    ),
    "slices by a number": (
        Sliced, {"stem": 8, "body.a": 4, "body.a#1": 8, "body.b": 3, "body.c": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_grouped_and_cut(name: str) -> None:
    make, expected = LAYERS[name]
    torch.manual_seed(0)
    host = Host(make(), 5)
    groups = channel_groups(host)
    assert {group.name: group.width for group in groups} == expected
    for seed in range(3):
        keep = random_keep(groups, seed)
        check_cut(host, keep, cut(host, keep, groups), host.example_input(2, seed=3), groups)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "object"])
def test_a_record_sets_numbers_wherever_they_are_held(kind: str) -> None:
    torch.manual_seed(0)
    host = Host(Uneven(kind), 5)
    less = cut(host, {"body.a": torch.arange(4) > 0, "body.a#1": torch.arange(8) > 2})
    again = Host(Uneven(kind), 5)
    apply_records(again, less.pruning)
    again.load_state_dict(less.state_dict())
    images = host.example_input()
    with torch.no_grad():
        assert torch.equal(again(images)["parts.logits"], less(images)["parts.logits"])
    wrong = copy.deepcopy(less.pruning)
    wrong[0]["attributes"][0]["name"] += ".x"
    with pytest.raises(InputRefused, match="which the network does not have"):
        apply_records(Host(Uneven(kind), 5), wrong)


def test_sizes_that_layers_hold_follow() -> None:
    torch.manual_seed(0)
    host = Host(Body(recurrent, a=nn.GRU(8, 6, batch_first=True), b=nn.Linear(6, 5)), 5)
    less = cut(host, {"stem": torch.arange(8) > 2, "body.a": torch.arange(6) > 1})
    layer = less.get_submodule("body.a")
    assert isinstance(layer, nn.GRU) and (layer.input_size, layer.hidden_size) == (5, 4)
    less.train()
    sum(v.mean() for v in less(less.example_input(2)).values()).backward()  # type: ignore[union-attr]
    assert layer.weight_hh_l0.grad is not None
