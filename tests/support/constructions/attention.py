"""Attention over places, windows, rows and channels; units are heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.bodies import Body, grid, tokens
from support.constructions.base import Construction, conv, lam, linear, make

#: width of a head, and heads, of most networks here
WIDE, HEADS = 4, 4


class Attention(nn.Module):
    """Packed or separate projections from the stem's 8 channels to 4 heads of 4, out to 8.

    Args:
        packed: one layer writes queries, keys and values.
        mix: (module, q, k, v, places) -> (B, heads, N, width); fused attention by default.
        inferred: the width of a head, not their number, is left to ``reshape``.
        layers: more layers, by name.
    """

    def __init__(
        self,
        packed: bool = True,
        mix: Callable[..., Tensor] | None = None,
        inferred: bool = False,
        **layers: nn.Module,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = HEADS, WIDE, WIDE**-0.5
        width = HEADS * WIDE
        if packed:
            self.qkv = nn.Linear(8, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(8, width) for _ in range(3))
        self.proj = nn.Linear(width, 8)
        self.packed, self.mix, self.inferred = packed, mix, inferred
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        b, n, _ = t.shape
        wide = -1 if self.inferred else self.head_dim
        if self.packed:
            qkv = self.qkv(t).reshape(b, n, 3, self.num_heads, wide)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                layer(t).view(b, n, self.num_heads, wide).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
        fused = F.scaled_dot_product_attention
        y = fused(q, k, v) if self.mix is None else self.mix(self, q, k, v)
        return grid(self.proj(y.transpose(1, 2).flatten(2)), x)


def by_hand(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * m.scale) @ k.transpose(-2, -1)).softmax(-1) @ v


def normalised(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.q_norm(q), m.k_norm(k), v)  # type: ignore[operator]


def kernelised(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(dim=2, keepdim=True).transpose(-2, -1)
    return (q @ (k.transpose(-2, -1) @ v)) / (total + 1e-6)


def talking(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * m.scale) @ k.transpose(-2, -1)
    scores = m.before(scores.permute(0, 2, 3, 1)).softmax(2)  # type: ignore[operator]
    return m.after(scores).permute(0, 3, 1, 2) @ v  # type: ignore[operator]


def along_axes(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, heads, n, wide = q.shape
    q, k, v = (t.reshape(b, heads, 8, 8, wide) for t in (q, k, v))
    rows = F.scaled_dot_product_attention(q, k, v)
    columns = F.scaled_dot_product_attention(*(t.transpose(2, 3) for t in (q, k, v)))
    return (rows + columns.transpose(2, 3)).reshape(b, heads, n, wide)


class Biased(nn.Module):
    """A table of relative positions (a column per head), indexed; slopes per head besides."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(127, HEADS))
        places = torch.arange(64)
        self.register_buffer("index", places[:, None] - places[None] + 63)

    def forward(self, scores: Tensor) -> Tensor:
        assert isinstance(self.index, Tensor)
        n = scores.shape[-1]
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        return scores + bias.unsqueeze(0)


class Slopes(nn.Module):
    """A fixed slope per head on the distance of places (a buffer)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, HEADS + 1)[:, None, None])

    def forward(self, scores: Tensor) -> Tensor:
        assert isinstance(self.slopes, Tensor)
        places = torch.arange(scores.shape[-1])
        return scores - self.slopes * (places[:, None] - places[None]).abs()


def biased(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * m.scale) @ k.transpose(-2, -1)
    return m.bias(scores).softmax(-1) @ v  # type: ignore[operator]


class Temperature(nn.Module):
    """A learnable temperature per head."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.rand(HEADS, 1, 1) + 0.5)


def cosine(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return (scores * m.temperature.value).softmax(-1) @ v  # type: ignore[operator, union-attr]


def across_channels(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.transpose(-2, -1) for t in (q, k, v))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    mixed = (scores * m.temperature.value).softmax(-1) @ v  # type: ignore[operator, union-attr]
    return mixed.transpose(-2, -1)


class Turned(nn.Module):
    """Rotary positions by halves or by neighbours; the tables are buffers."""

    def __init__(self, interleaved: bool = False) -> None:
        super().__init__()
        angle = torch.arange(64.0)[:, None] / 100 ** (torch.arange(WIDE // 2) / (WIDE // 2))
        angle = angle.repeat_interleave(2, 1) if interleaved else torch.cat([angle, angle], 1)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        self.interleaved = interleaved

    def forward(self, t: Tensor) -> Tensor:
        assert isinstance(self.cos, Tensor) and isinstance(self.sin, Tensor)
        if self.interleaved:
            other = torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2)
        else:
            half = t.shape[-1] // 2
            other = torch.cat([-t[..., half:], t[..., :half]], -1)
        return t * self.cos + other * self.sin


def turned(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.turn(q), m.turn(k), v)  # type: ignore[operator]


class Grouped(nn.Module):
    """Four heads of queries on two of keys and values; by the flag, or by repeating them."""

    def __init__(self, flag: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.wide, self.flag = 4, 2, WIDE, flag
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.o = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        b, n, _ = t.shape
        q = self.q(t).view(b, n, self.heads, self.wide).transpose(1, 2)
        k, v = (
            layer(t).view(b, n, self.kv_heads, self.wide).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        if self.flag:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            k, v = (s.repeat_interleave(self.heads // self.kv_heads, dim=1) for s in (k, v))
            y = F.scaled_dot_product_attention(q, k, v)
        return grid(self.o(y.transpose(1, 2).reshape(b, n, -1)), x)


class Windowed(nn.Module):
    """Attention in windows of 4 or, padded and cropped, of 3; shifted by rolling the map."""

    def __init__(self, side: int = 4, shift: int = 0) -> None:
        super().__init__()
        self.side, self.shift, self.num_heads = side, shift, HEADS
        self.qkv, self.proj = nn.Linear(8, 3 * HEADS * WIDE), nn.Linear(HEADS * WIDE, 8)

    def forward(self, x: Tensor) -> Tensor:
        s = self.side
        b, c, h, w = x.shape
        g = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -w % s, 0, -h % s))
        if self.shift:
            g = g.roll((-self.shift, -self.shift), (1, 2))
        hh, ww = g.shape[1:3]
        g = g.view(b, hh // s, s, ww // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        qkv = self.qkv(g).reshape(g.shape[0], s * s, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = self.proj(y).view(b, hh // s, ww // s, s, s, -1).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(b, hh, ww, -1)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        out: Tensor = y[:, :h, :w].permute(0, 3, 1, 2)
        return out


class Crossed(nn.Module):
    """Learnable queries read the map, then the map reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.queries = nn.Parameter(torch.randn(1, 5, 10))
        self.q, self.k, self.v = nn.Linear(10, 16), nn.Linear(8, 16), nn.Linear(8, 16)
        self.o, self.masks = nn.Linear(16, 10), nn.Linear(10, 8)

    def heads(self, t: Tensor) -> Tensor:
        return t.view(t.shape[0], t.shape[1], self.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        queries = self.queries.expand(t.shape[0], -1, -1)
        y = F.scaled_dot_product_attention(
            self.heads(self.q(queries)), self.heads(self.k(t)), self.heads(self.v(t))
        )
        read = queries + self.o(y.transpose(1, 2).flatten(2))
        return torch.einsum("bqc,bchw->bqhw", self.masks(read), x)


def module_attention(m: Body, x: Tensor) -> Tensor:
    t = m.inside(tokens(x))
    return grid(m.out(t + m.attn(t, t, t, need_weights=False)[0]), x)


def encoder_layer(m: Body, x: Tensor) -> Tensor:
    return grid(m.out(m.layer(m.inside(tokens(x)))), x)


def non_local(m: Body, x: Tensor) -> Tensor:
    q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
    scores = (q.transpose(1, 2) @ k).softmax(-1)
    return m.out((v @ scores.transpose(1, 2)).view(x.shape[0], -1, *x.shape[2:]))


def channel_affinity(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    flat = y.flatten(2)
    scores = (flat @ flat.transpose(1, 2)).softmax(-1)
    return m.b((scores @ flat).view_as(y))


class Reduced(nn.Module):
    """Keys and values from a map that a strided convolution made smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.q, self.kv, self.proj = nn.Linear(8, 16), nn.Linear(6, 32), nn.Linear(16, 8)
        self.sr = nn.Conv2d(8, 6, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        b, n, _ = t.shape
        q = self.q(t).reshape(b, n, self.num_heads, -1).permute(0, 2, 1, 3)
        small = tokens(self.sr(x))
        kv = self.kv(small).reshape(b, -1, 2, self.num_heads, WIDE).permute(2, 0, 3, 1, 4)
        k, v = kv[0], kv[1]
        scores = (q @ k.transpose(-2, -1) * WIDE**-0.5).softmax(-1)
        return grid(self.proj((scores @ v).transpose(1, 2).reshape(b, n, -1)), x)


class Convolved(nn.Module):
    """Heads over the channels of a map, projections by convolution, depthwise between."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.local = nn.Conv2d(8, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.proj = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = self.local(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (t.reshape(b, self.num_heads, WIDE, h * w).transpose(2, 3) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        out: Tensor = self.proj(y.reshape(b, -1, h, w))
        return out


class Relu(nn.Module):
    """Linear attention without softmax over heads that one reshape makes (EfficientViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = WIDE
        self.qkv, self.proj = nn.Conv2d(8, 48, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = self.qkv(x).reshape(b, -1, 3 * self.dim, h * w).transpose(-1, -2)
        q, k, v = y.chunk(3, dim=-1)
        q, k = q.relu(), k.relu()
        v = F.pad(v, (0, 1), value=1.0)
        mixed = q @ (k.transpose(-1, -2) @ v)
        mixed = mixed[..., :-1] / (mixed[..., -1:] + 1e-6)
        out: Tensor = self.proj(mixed.transpose(-1, -2).reshape(b, -1, h, w))
        return out


def mix_feed_forward(m: Body, x: Tensor) -> Tensor:
    t = m.up(tokens(x))
    t = m.local(grid(t, x)).flatten(2).transpose(1, 2)
    return grid(m.down(F.gelu(t)), x)


def einsum_heads(m: Body, x: Tensor) -> Tensor:
    t = tokens(x)
    q = torch.einsum("bnc,chd->bhnd", t, m.q)
    k = torch.einsum("bnc,chd->bhnd", t, m.k)
    v = torch.einsum("bnc,chd->bhnd", t, m.v)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
    return grid(torch.einsum("bhnm,bhmd,hdc->bnc", scores, v, m.o), x)


def with_einsum_weights() -> nn.Module:
    body = Body(einsum_heads)
    for name in ("q", "k", "v"):
        body.register_parameter(name, nn.Parameter(torch.randn(8, HEADS, WIDE)))
    body.register_parameter("o", nn.Parameter(torch.randn(HEADS, WIDE, 8) * 0.3))
    return body


class Classified(nn.Module):
    """A class token before the places, positions on all; both are dropped again."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 10)
        self.token = nn.Parameter(torch.randn(1, 1, 10))
        self.places = nn.Parameter(torch.randn(1, 65, 10))
        self.fc1, self.fc2 = nn.Linear(10, 12), nn.Linear(12, 10)
        self.out = nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        t = self.inside(tokens(x))
        t = torch.cat([self.token.expand(t.shape[0], -1, -1), t], dim=1) + self.places
        t = t + self.fc2(F.gelu(self.fc1(t)))
        return grid(self.out(t[:, 1:] * t[:, :1].sigmoid()), x)


_HEADS = {"stem": 8, "body.qkv": HEADS, "body.proj": 8}

ALL = [
    Construction("packed heads", lambda: Attention(), 8, _HEADS),
    Construction("packed heads, width inferred", lambda: Attention(inferred=True), 8, _HEADS),
    Construction(
        "separate heads",
        lambda: Attention(False, by_hand),
        8,
        {"stem": 8, "body.q": HEADS, "body.proj": 8},
    ),
    Construction(
        "norms of queries and keys",
        lambda: Attention(mix=normalised, q_norm=nn.LayerNorm(WIDE), k_norm=nn.LayerNorm(WIDE)),
        8,
        _HEADS,
    ),
    Construction("linear attention", lambda: Attention(mix=kernelised), 8, _HEADS),
    Construction("axial attention", lambda: Attention(mix=along_axes), 8, _HEADS),
    Construction(
        "relative positions by table", lambda: Attention(mix=biased, bias=Biased()), 8, _HEADS
    ),
    Construction("slopes per head", lambda: Attention(mix=biased, bias=Slopes()), 8, _HEADS),
    Construction(
        "cosine attention", lambda: Attention(mix=cosine, temperature=Temperature()), 8, _HEADS
    ),
    Construction(
        "attention across channels",
        lambda: Attention(mix=across_channels, temperature=Temperature()),
        8,
        _HEADS,
    ),
    Construction("rotary positions", lambda: Attention(mix=turned, turn=Turned()), 8, _HEADS),
    Construction(
        "rotary positions, interleaved",
        lambda: Attention(mix=turned, turn=Turned(True)),
        8,
        _HEADS,
    ),
    Construction(
        "talking heads",
        lambda: Attention(
            False, talking, before=nn.Linear(HEADS, HEADS), after=nn.Linear(HEADS, HEADS)
        ),
        8,
        {"stem": 8, "body.before": HEADS, "body.proj": 8},
        {"body.q": "one number counts the heads of queries, keys and values"},
    ),
    Construction(
        "grouped queries by the flag",
        lambda: Grouped(True),
        8,
        {"stem": 8, "body.q": 2, "body.o": 8},
    ),
    Construction(
        "grouped queries by repetition",
        lambda: Grouped(False),
        8,
        {"stem": 8, "body.q": 2, "body.o": 8},
    ),
    Construction("windows", lambda: Windowed(), 8, _HEADS),
    Construction("windows, padded and cropped", lambda: Windowed(3), 8, _HEADS),
    Construction("windows, shifted", lambda: Windowed(4, 2), 8, _HEADS),
    Construction(
        "learnable queries",
        Crossed,
        5,
        {"body": 5, "body.q": HEADS, "body.o": 10},
        {"stem": "the queries' product with the map sums over it"},
    ),
    Construction(
        "attention module of torch",
        lam(
            module_attention,
            inside=linear(8, 8),
            attn=make(nn.MultiheadAttention, 8, 2, batch_first=True),
            out=linear(8, 6),
        ),
        6,
        {"stem": 8, "body.inside": 8, "body.attn": 2, "body.out": 6},
    ),
    Construction(
        "encoder layer of torch",
        lam(
            encoder_layer,
            inside=linear(8, 8),
            layer=make(nn.TransformerEncoderLayer, 8, 2, 12, 0.0, batch_first=True),
            out=linear(8, 6),
        ),
        6,
        {"stem": 8, "body.layer.self_attn": 2, "body.layer.linear1": 12, "body.out": 6},
        {"body.inside": "its norm's statistics are taken over all channels"},
    ),
    Construction(
        "non-local block",
        lam(non_local, q=conv(8, 4), k=conv(8, 4), v=conv(8, 6), out=conv(6, 5)),
        5,
        {"stem": 8, "body.v": 6, "body.out": 5},
        {"body.q": "scores sum over it", "body.k": "scores sum over it"},
    ),
    Construction(
        "affinity of channels",
        lam(channel_affinity, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "a softmax over channels"},
    ),
    Construction(
        "keys and values of a smaller map",
        Reduced,
        8,
        {"stem": 8, "body.q": HEADS, "body.sr": 6, "body.proj": 8},
    ),
    Construction("heads over a map's channels", Convolved, 8, _HEADS),
    Construction("ReLU attention", Relu, 8, _HEADS),
    Construction(
        "feed-forward with a depthwise step",
        lam(mix_feed_forward, up=linear(8, 12), local=conv(12, 12, 3, 12), down=linear(12, 6)),
        6,
        {"stem": 8, "body.up": 12, "body.down": 6},
    ),
    # the width of a head is an axis of its own, which values and the way out can lose too
    Construction(
        "heads by einsum",
        with_einsum_weights,
        8,
        {"stem": 8, "body": HEADS, "body#1": WIDE, "body#2": 8},
    ),
    Construction(
        "class token and positions",
        Classified,
        6,
        {"stem": 8, "body.inside": 10, "body.fc1": 12, "body.out": 6},
    ),
]
