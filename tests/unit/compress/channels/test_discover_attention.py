"""Attention of every style: whole heads go, with the numbers that count them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.pruning import Host, random_keep
from torch import Tensor, nn

from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import channel_groups, discover
from edgemtl.models.multihead import NarrowMultihead

INSIDE = 24


class Attention(nn.Module):
    """Tokens of 8 channels, attention of 4 heads of 6 inside, 5 channels out."""

    def __init__(self, heads: int = 4, key_heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.key_heads, self.head_dim = heads, key_heads, INSIDE // heads
        self.q = nn.Linear(8, INSIDE)
        self.k = nn.Linear(8, key_heads * self.head_dim)
        self.v = nn.Linear(8, key_heads * self.head_dim)
        self.out = nn.Linear(INSIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y = self.mixed(tokens)
        return self.out(y).transpose(1, 2).unflatten(2, x.shape[2:])

    def mixed(self, t: Tensor) -> Tensor:
        batch, count, _ = t.shape
        q = self.q(t).view(batch, count, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (
            f(t).view(batch, count, self.key_heads, self.head_dim).transpose(1, 2)
            for f in (self.k, self.v)
        )
        return self.attend(q, k, v).transpose(1, 2).reshape(batch, count, -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class ByHand(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1) @ v


class Biased(Attention):
    """A learned table of positions by head, as windowed attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("index", torch.arange(64 * 64).view(64, 64) % 9)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.table[self.index].permute(2, 0, 1)[None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class Grouped(Attention):
    def __init__(self) -> None:
        super().__init__(4, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class GroupedByRepeat(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class GroupedByExpand(Grouped):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h, n, d = k.shape
        k, v = (t[:, :, None].expand(b, h, 2, n, d).reshape(b, 2 * h, n, d) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class Rotary(Attention):
    """Positions turn halves of a head; tables are buffers, of one head's width."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(64)[:, None] / 100 ** (torch.arange(3)[None] / 3)
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, 1))
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, 1))

    def turned(self, t: Tensor) -> Tensor:
        half = self.head_dim // 2
        turned = torch.cat([-t[..., half:], t[..., :half]], -1)
        return t * self.cos + turned * self.sin

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)


class Interleaved(Rotary):
    """Neighbouring channels are turned, and the tables are computed in the forward."""

    def turned(self, t: Tensor) -> Tensor:
        angle = torch.arange(t.shape[2])[:, None] / 100 ** (torch.arange(3)[None] / 3)
        even, odd = t[..., ::2], t[..., 1::2]
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Normed(Attention):
    """Queries and keys are normalised, each head for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6) + 0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.rms_norm(q, (6,), self.weight), F.layer_norm(k, (6,), self.weight)
        return F.scaled_dot_product_attention(q, k, v)


class Packed(Attention):
    """One layer for queries, keys and values; the width of a head is inferred."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.v
        self.qkv = nn.Linear(8, 3 * INSIDE)

    def mixed(self, t: Tensor) -> Tensor:
        batch, count, _ = t.shape
        qkv = self.qkv(t).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.attend(q, k, v).transpose(1, 2).reshape(batch, count, -1)


class Sizes:
    """A configuration object."""

    def __init__(self) -> None:
        self.heads, self.width = 4, 6


class Configured(Packed):
    """The number of heads is kept in a configuration object, and the width inside as a number."""

    def __init__(self) -> None:
        super().__init__()
        del self.num_heads, self.head_dim, self.key_heads
        self.config = Sizes()
        self.all_heads = INSIDE

    def mixed(self, t: Tensor) -> Tensor:
        batch, count, _ = t.shape
        q, k, v = self.qkv(t).split(self.all_heads, dim=-1)
        shape = (batch, count, self.config.heads, self.config.width)
        q, k, v = (part.view(shape).transpose(1, 2) for part in (q, k, v))
        return self.attend(q, k, v).transpose(1, 2).reshape(batch, count, self.all_heads)


STYLES: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "fused": (Attention, "body.q", 4),
    "by hand": (ByHand, "body.q", 4),
    "bias by head": (Biased, "body.q", 4),
    "grouped queries": (Grouped, "body.q", 2),
    "grouped by repeat": (GroupedByRepeat, "body.q", 2),
    "grouped by expand": (GroupedByExpand, "body.q", 2),
    "rotary": (Rotary, "body.q", 4),
    "rotary, interleaved": (Interleaved, "body.q", 4),
    "normed": (Normed, "body.q", 4),
    "packed, width inferred": (Packed, "body.qkv", 4),
    "configured": (Configured, "body.qkv", 4),
}


def assert_cuts(host: Host) -> None:
    groups = channel_groups(host)
    for seed in range(3):
        keep = random_keep(groups, seed)
        check_cut(host, keep, cut(host, keep, groups), host.example_input(2, seed=3), groups)


@pytest.mark.parametrize("name", STYLES)
def test_heads_are_units(name: str) -> None:
    make, group, units = STYLES[name]
    torch.manual_seed(0)
    host = Host(make(), 5)
    found = {g.name: g.width for g in channel_groups(host)}
    assert found == {"stem": 8, group: units, "body.out": 5}
    assert_cuts(host)


class Torchs(nn.Module):
    """nn.MultiheadAttention between tokens of 8 channels."""

    def __init__(self, separate: bool = False, weights: bool = False) -> None:
        super().__init__()
        sizes = {"kdim": 6, "vdim": 6} if separate else {}
        self.attn = nn.MultiheadAttention(8, 4, batch_first=not separate, **sizes)
        self.other = nn.Linear(8, 6) if separate else nn.Identity()
        self.separate, self.weights = separate, weights

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        if self.separate:
            t = t.transpose(0, 1)
        key = self.other(t)
        y, _ = self.attn(t, key, key, need_weights=self.weights)
        if self.separate:
            y = y.transpose(0, 1)
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_heads_of_torchs_own_layer(separate: bool, weights: bool) -> None:
    torch.manual_seed(0)
    host = Host(Torchs(separate, weights), 8)
    found = {g.name: g.width for g in channel_groups(host)}
    expected = {"stem": 8, "body.attn": 4, "body.attn.out_proj": 8}
    if separate:
        expected["body.other"] = 6
    assert found == expected
    assert_cuts(host)


def test_heads_stay_where_their_mean_is_used() -> None:
    class Seen(Torchs):
        def forward(self, x: Tensor) -> Tensor:
            t = x.flatten(2).transpose(1, 2)
            y, seen = self.attn(t, t, t)
            return (seen @ y).transpose(1, 2).unflatten(2, x.shape[2:])

    torch.manual_seed(0)
    host = Host(Seen(), 8)
    found = discover(host)
    assert {g.name for g in found.groups} == {"stem", "body.attn.out_proj"}
    whole = {w.tensor: w.reason for w in found.whole}
    assert "compared with each other" in whole["body.attn.in_proj_weight"]
    assert_cuts(host)


def test_torchs_own_layer_is_itself_until_it_loses_a_head() -> None:
    torch.manual_seed(0)
    host = Host(Torchs(), 8)
    groups = channel_groups(host)
    whole = cut(host, {"body.attn.out_proj": torch.arange(8) < 8}, groups)
    assert type(whole.get_submodule("body.attn")) is nn.MultiheadAttention
    less = cut(host, {"body.attn": torch.tensor([True, False, True, True])}, groups)
    attention = less.get_submodule("body.attn")
    assert isinstance(attention, NarrowMultihead) and attention.num_heads == 3
    assert attention.in_proj_weight.shape == (18, 8)


def test_an_encoder_layer_loses_heads_and_hidden_units() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.flatten(2).transpose(1, 2))
            return y.transpose(1, 2).unflatten(2, x.shape[2:])

    torch.manual_seed(0)
    host = Host(Encoder(), 8)
    found = {g.name: g.width for g in channel_groups(host)}
    assert found == {"body.layer.self_attn": 2, "body.layer.linear1": 12}
    assert_cuts(host)


@pytest.mark.parametrize("masks", ["none", "causal", "padding", "both", "boolean"])
@pytest.mark.parametrize("weights", [False, True])
def test_the_narrow_layer_answers_what_torchs_answers(masks: str, weights: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 4, batch_first=True).eval()
    ours = NarrowMultihead(8, 4, batch_first=True).eval()
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randn(2, 5, 8)
    options: dict[str, object] = {}
    if masks in ("causal", "both"):
        options["attn_mask"] = nn.Transformer.generate_square_subsequent_mask(5)
    if masks == "boolean":
        options["attn_mask"] = torch.rand(8, 5, 5) > 0.7
        options["attn_mask"][:, :, 0] = False  # type: ignore[index]
    if masks in ("padding", "both"):
        options["key_padding_mask"] = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        if masks == "both":
            options["key_padding_mask"] = torch.zeros(2, 5).masked_fill(
                torch.tensor([[False] * 5, [False] * 3 + [True] * 2]), float("-inf")
            )
    with torch.no_grad():
        expected, seen = theirs(tokens, tokens, tokens, need_weights=weights, **options)
        found, ours_seen = ours(tokens, tokens, tokens, need_weights=weights, **options)
    torch.testing.assert_close(found, expected)
    assert (seen is None) == (ours_seen is None)
    if seen is not None and ours_seen is not None:
        torch.testing.assert_close(ours_seen, seen)
