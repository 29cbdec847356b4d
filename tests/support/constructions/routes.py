"""Experts, recurrent layers, streams of several tasks, sizes written in Python."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.bodies import Body, grid, tokens
from support.constructions.base import Construction, conv, lam, linear, make


class Mixture(nn.Module):
    """Three experts of one hidden layer each, every one computed, summed by a gate."""

    def __init__(self, hidden: int = 6, top: int = 0) -> None:
        super().__init__()
        self.router, self.top = nn.Linear(8, 3), top
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 8, 1))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x.mean((2, 3)))
        gate = logits.softmax(1)
        if self.top:
            best, index = logits.topk(self.top, 1)
            gate = torch.zeros_like(logits).scatter(1, index, best.softmax(1))
        return x + sum(
            gate[:, i, None, None, None] * expert(x) for i, expert in enumerate(self.experts)
        )


class Stacked(nn.Module):
    """The weights of all experts in one tensor each, contracted by einsum or batched products."""

    def __init__(self, batched: bool) -> None:
        super().__init__()
        self.router, self.batched = nn.Linear(8, 3), batched
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 6)), nn.Parameter(torch.randn(3, 6, 8))

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        gate = self.router(t).softmax(-1)
        if self.batched:
            b, n, c = t.shape
            flat = t.reshape(1, b * n, c).expand(3, -1, -1)
            y = torch.bmm(torch.bmm(flat, self.up).relu(), self.down).view(3, b, n, -1)
            y = (y * gate.permute(2, 0, 1).unsqueeze(-1)).sum(0)
        else:
            hidden = torch.einsum("bnc,ech->bneh", t, self.up).relu()
            y = torch.einsum("bneh,ehc,bne->bnc", hidden, self.down, gate)
        return x + grid(y, x)


class Mmoe(nn.Module):
    """Experts shared by two tasks, a gate for each."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1) for _ in range(3))
        self.gates = nn.ModuleDict({name: nn.Linear(8, 3) for name in ("one", "two")})
        self.heads = nn.ModuleDict({name: nn.Conv2d(6, 3, 1) for name in ("one", "two")})

    def forward(self, x: Tensor) -> Tensor:
        stack = torch.stack([expert(x).relu() for expert in self.experts], 1)
        found = []
        for name, gate in self.gates.items():
            share = gate(x.mean((2, 3))).softmax(1)
            found.append(self.heads[name]((stack * share[..., None, None, None]).sum(1)))
        return torch.cat(found, 1)


def over_rows(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    b, c, h, w = y.shape
    rows = y.permute(0, 2, 3, 1).reshape(b * h, w, c)
    out = m.rnn(rows)[0]
    return m.b(out.reshape(b, h, w, -1).permute(0, 3, 1, 2))


class ConvGru(nn.Module):
    """A convolutional GRU that runs twice over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv2d(8, 6, 1)
        self.z, self.r, self.q = (nn.Conv2d(14, 6, 3, padding=1) for _ in range(3))
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x).tanh()
        for _ in range(2):
            both = torch.cat([h, x], 1)
            z, r = self.z(both).sigmoid(), self.r(both).sigmoid()
            q = self.q(torch.cat([r * h, x], 1)).tanh()
            h = (1 - z) * h + z * q
        out: Tensor = self.out(h)
        return out


class ConvLstm(nn.Module):
    """A convolutional LSTM: four gates of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.h, self.c = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.gates = nn.Conv2d(14, 24, 3, padding=1)
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.h(x).tanh(), self.c(x)
        for _ in range(2):
            i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        out: Tensor = self.out(h)
        return out


class Scan(nn.Module):
    """A linear recurrence along rows with a state per channel, unrolled (state spaces)."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1)
        self.decay = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inside(x)
        decay = self.decay.sigmoid().view(1, -1, 1)
        state, states = y[..., 0] * 0, []
        for place in range(y.shape[3]):
            state = decay * state + y[..., place]
            states.append(state)
        out: Tensor = self.out(torch.stack(states, 3))
        return out


class Stitched(nn.Module):
    """Two streams of a task each, mixed by learned scalars, one per channel or one for all."""

    def __init__(self, per_channel: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.stitch = nn.Parameter(torch.rand((2, 2, 6) if per_channel else (2, 2)))
        self.c, self.d = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.a(x).relu(), self.b(x).relu()
        if self.stitch.dim() == 3:
            s = self.stitch[..., None, None]
            mixed = torch.einsum(
                "ijcxy,bjcxy->bicxy", s.expand(2, 2, -1, 8, 8), torch.stack([one, two], 1)
            )
            one, two = mixed.unbind(1)
        else:
            s = self.stitch
            one, two = s[0, 0] * one + s[0, 1] * two, s[1, 0] * one + s[1, 1] * two
        return torch.cat([self.c(one), self.d(two)], 1)


def fused_by_concat(m: Body, x: Tensor) -> Tensor:
    one, two = m.a(x).relu(), m.b(x).relu()
    both = torch.cat([one, two], 1)
    return torch.cat([m.c(m.f(both)), m.d(m.g(both))], 1)


def attended(m: Body, x: Tensor) -> Tensor:
    shared = m.shared(x).relu()
    found = []
    for task in ("one", "two"):
        mask = getattr(m, f"{task}2")(getattr(m, f"{task}1")(shared).relu()).sigmoid()
        found.append(getattr(m, f"{task}3")(mask * shared))
    return torch.cat(found, 1)


def distilled(m: Body, x: Tensor) -> Tensor:
    one, two = m.a(x).relu(), m.b(x).relu()
    one2 = one + m.gate(two).sigmoid() * m.message(two)
    return torch.cat([m.c(one2), m.d(two)], 1)


class TrainingHead(nn.Module):
    """A head that only training computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.extra = (
            nn.Conv2d(8, 12, 3, 1, 1),
            nn.Conv2d(12, 6, 1),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        out: Tensor = self.b(y)
        return out + self.extra(y).mean() if self.training else out


class Tuple(nn.Module):
    """Splits by sizes kept in a tuple."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.sizes = (hidden, hidden)
        self.enter, self.leave = nn.Conv2d(8, 2 * hidden, 1), nn.Conv2d(hidden, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).split(self.sizes, dim=1)
        out: Tensor = self.leave(left * right.sigmoid())
        return out


@dataclass
class Settings:
    """Sizes as configuration objects of transformer libraries hold them."""

    heads: int = 4
    wide: int = 4


class Configured(nn.Module):
    """Attention whose number of heads stands in a configuration object."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()
        self.qkv, self.proj = nn.Linear(8, 48), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        t = tokens(x)
        b, n, _ = t.shape
        s = self.settings
        q, k, v = self.qkv(t).reshape(b, n, 3, s.heads, s.wide).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return grid(self.proj(y.transpose(1, 2).reshape(b, n, s.heads * s.wide)), x)


class Numbered(nn.Module):
    """Splits by a number it keeps, beside one of the same value that means something else."""

    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.hidden, self.kernel = hidden, 3
        self.enter, self.inner = nn.Conv2d(8, 6, 1), nn.Conv2d(3, 3, 3, padding=1)
        self.leave = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).split((self.hidden, self.hidden), dim=1)
        y = F.max_pool2d(self.inner(right), self.kernel, 1, self.kernel // 2)
        out: Tensor = self.leave(torch.cat([left, right, y], dim=1))
        return out


class Buffered(nn.Module):
    """A normalisation whose constants are buffers, positions that are a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1)
        self.register_buffer("mean", torch.randn(1, 6, 1, 1))
        self.places = nn.Parameter(torch.randn(1, 6, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b((self.a(x) - self.mean).relu() + self.places)
        return out


class Listed(nn.Module):
    """Weights in a ParameterList and a ParameterDict, and layers chosen by name."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(6, 8, 1, 1), torch.randn(6, 6, 3, 3) * 0.2])
        self.shifts = nn.ParameterDict({"one": torch.randn(6), "two": torch.randn(6)})
        self.heads = nn.ModuleDict({"kept": nn.Conv2d(6, 5, 1)})

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weights[0], self.shifts["one"]).relu()
        y = F.conv2d(y, self.weights[1], self.shifts["two"], padding=1).relu()
        out: Tensor = self.heads["kept"](y)
        return out


def by_width(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    return m.b(y) if y.shape[1] > 8 else -m.b(y)


def by_root(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    return m.b(y / sqrt(y.shape[1]))


def constant(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x) * torch.linspace(0, 1, 6).view(1, 6, 1, 1))


def written_into(m: Body, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape[0], 6, *x.shape[2:])
    y[:, :] = m.a(x)
    return m.b(y)


def hard_split(m: Body, x: Tensor) -> Tensor:
    left, right = m.a(x).split(3, dim=1)
    return m.b(torch.cat([left * right, right], dim=1))


def hard_view(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).view(x.shape[0], 6, *x.shape[2:]))


def sorted_channels(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).sort(dim=1).values)


def channels_by_einsum(m: Body, x: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", F.relu(m.a(x)), m.fc.weight)


def checked(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    if y.shape[1:] != (6, 8, 8):
        raise ValueError("a map of 6x8x8 is expected")
    return m.b(y)


def bilinear(m: Body, x: Tensor) -> Tensor:
    return grid(m.b(m.mix(tokens(m.a(x)), tokens(x))), x)


WRITTEN = "its size is written into the forward"
_TWO = {"stem": 8, "body.a": 6, "body.b": 5}
_ONLY_B = {"stem": 8, "body.b": 5}
_A_B = {"a": conv(8, 6), "b": conv(6, 5)}

ALL = [
    Construction(
        "experts under a dense gate",
        Mixture,
        8,
        {"stem": 8, "body.experts.0.0": 6, "body.experts.1.0": 6, "body.experts.2.0": 6},
        {"body.router": "one expert per channel"},
    ),
    Construction(
        "experts under a gate of two",
        lambda: Mixture(top=2),
        8,
        {"stem": 8, "body.experts.0.0": 6, "body.experts.1.0": 6, "body.experts.2.0": 6},
        {"body.router": "the best are chosen among its channels"},
    ),
    Construction("experts stacked, by einsum", lambda: Stacked(False), 8, {"stem": 8, "body": 6}),
    Construction("experts stacked, batched", lambda: Stacked(True), 8, {"stem": 8, "body": 6}),
    Construction(
        "gates of several tasks",
        Mmoe,
        6,
        {"stem": 8, "body.experts.0": 6, "body.heads.one": 3, "body.heads.two": 3},
    ),
    Construction(
        "GRU over rows",
        lam(over_rows, a=conv(8, 7), rnn=make(nn.GRU, 7, 6, batch_first=True), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 7, "body.rnn": 6, "body.b": 5},
    ),
    Construction(
        "GRU in both directions",
        lam(
            over_rows,
            a=conv(8, 7),
            rnn=make(nn.GRU, 7, 4, batch_first=True, bidirectional=True),
            b=conv(8, 5),
        ),
        5,
        {"stem": 8, "body.a": 7, "body.rnn": 4, "body.b": 5},
    ),
    Construction(
        "LSTM over rows",
        lam(over_rows, a=conv(8, 7), rnn=make(nn.LSTM, 7, 6, batch_first=True), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 7, "body.rnn": 6, "body.b": 5},
    ),
    Construction("convolutional GRU", ConvGru, 5, {"stem": 8, "body.start": 6, "body.out": 5}),
    Construction("convolutional LSTM", ConvLstm, 5, {"stem": 8, "body.h": 6, "body.out": 5}),
    Construction("recurrence unrolled", Scan, 5, {"stem": 8, "body.inside": 6, "body.out": 5}),
    Construction(
        "cross-stitch",
        lambda: Stitched(False),
        5,
        {"stem": 8, "body.a": 6, "body.c": 3, "body.d": 2},
    ),
    Construction(
        "cross-stitch per channel",
        lambda: Stitched(True),
        5,
        {"stem": 8, "body.a": 6, "body.c": 3, "body.d": 2},
    ),
    Construction(
        "tasks fused by concatenation",
        lam(
            fused_by_concat,
            a=conv(8, 6),
            b=conv(8, 6),
            f=conv(12, 4),
            g=conv(12, 4),
            c=conv(4, 3),
            d=conv(4, 2),
        ),
        5,
        {"stem": 8, "body.a": 6, "body.b": 6, "body.f": 4, "body.g": 4, "body.c": 3, "body.d": 2},
    ),
    Construction(
        "attention of tasks on a shared map",
        lam(
            attended,
            shared=conv(8, 6),
            one1=conv(6, 4),
            one2=conv(4, 6),
            one3=conv(6, 3),
            two1=conv(6, 4),
            two2=conv(4, 6),
            two3=conv(6, 2),
        ),
        5,
        {
            "stem": 8,
            "body.shared": 6,
            "body.one1": 4,
            "body.two1": 4,
            "body.one3": 3,
            "body.two3": 2,
        },
    ),
    Construction(
        "messages between tasks",
        lam(
            distilled,
            a=conv(8, 6),
            b=conv(8, 7),
            gate=conv(7, 6, 3),
            message=conv(7, 6, 3),
            c=conv(6, 3),
            d=conv(7, 2),
        ),
        5,
        {"stem": 8, "body.a": 6, "body.b": 7, "body.c": 3, "body.d": 2},
    ),
    Construction(
        "head of training alone",
        TrainingHead,
        6,
        {"stem": 8, "body.a": 12, "body.b": 6},
    ),
    Construction("sizes in a tuple", Tuple, 5, {"stem": 8, "body.enter": 4, "body.leave": 5}),
    Construction(
        "sizes in a configuration", Configured, 8, {"stem": 8, "body.qkv": 4, "body.proj": 8}
    ),
    Construction(
        "number beside an equal number",
        Numbered,
        5,
        {"stem": 8, "body.enter": 3, "body.inner": 3, "body.leave": 5},
    ),
    Construction("buffers and positions", Buffered, 5, _TWO),
    Construction(
        "parameters in lists",
        Listed,
        5,
        {"stem": 8, "body.weights": 6, "body.weights#1": 6, "body.heads.kept": 5},
    ),
    Construction(
        "branch by width",
        lam(by_width, a=conv(8, 12), b=conv(12, 5)),
        5,
        _ONLY_B,
        {"body.a": "the forward asks for its width"},
    ),
    Construction(
        "root of a width",
        lam(by_root, **_A_B),
        5,
        _ONLY_B,
        {"body.a": "the forward computes with its width"},
    ),
    Construction("constant of a width", lam(constant, **_A_B), 5, _ONLY_B, {"body.a": WRITTEN}),
    Construction("written into zeros", lam(written_into, **_A_B), 5, _ONLY_B, {"body.a": WRITTEN}),
    Construction("split by number", lam(hard_split, **_A_B), 5, _ONLY_B, {"body.a": WRITTEN}),
    Construction("view by number", lam(hard_view, **_A_B), 5, _ONLY_B, {"body.a": WRITTEN}),
    Construction("shape that is checked", lam(checked, **_A_B), 5, _ONLY_B, {"body.a": WRITTEN}),
    Construction(
        "sorted channels",
        lam(sorted_channels, **_A_B),
        5,
        _ONLY_B,
        {"body.a": "no rule for the operator"},
    ),
    Construction(
        "shuffle as an operator",
        lam(lambda m, x: m.b(F.channel_shuffle(m.a(x), 2)), **_A_B),
        5,
        {"stem": 8, "body.a": 3, "body.b": 5},
    ),
    Construction(
        "linear layer by einsum",
        lam(channels_by_einsum, a=conv(8, 6), fc=linear(6, 9, False)),
        9,
        {"stem": 8, "body.a": 6, "body.fc": 9},
    ),
    Construction(
        "bilinear layer",
        lam(bilinear, a=conv(8, 6), mix=make(nn.Bilinear, 6, 8, 7), b=linear(7, 5)),
        5,
        {"body.b": 5},
        dict.fromkeys(("stem", "body.a", "body.mix"), "no rule for the operator"),
        refused="bilinear",
    ),
]
