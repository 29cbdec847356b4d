"""Norms, gates and re-parametrised weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from support.bodies import Body
from support.constructions.base import Construction, conv, lam, linear, make, seq

STATISTICS = "its norm's statistics are taken over all channels"


class MapNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FrozenNorm(nn.Module):
    """A batch norm whose four vectors are buffers (detection libraries)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(width) + 0.5)
        self.register_buffer("bias", torch.randn(width) * 0.2)
        self.register_buffer("running_mean", torch.randn(width) * 0.2)
        self.register_buffer("running_var", torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()  # type: ignore[operator]
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class ResponseNorm(nn.Module):
    """Global response normalisation: a channel's energy over the mean of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gamma * x * energy / (energy.mean(1, keepdim=True) + 1e-6)


class FilterResponse(nn.Module):
    """Filter response normalisation with a learned threshold: every channel for itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, width, 1, 1) + 0.5)
        self.tau = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        power = x.square().mean((2, 3), keepdim=True)
        return torch.maximum(x * (power + 1e-6).rsqrt() * self.gamma, self.tau)


class StandardConv(nn.Conv2d):
    """A convolution whose kernels are standardised on the way (weight standardisation)."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / spread, self.bias, padding=self.padding)


class ScaledStandardConv(nn.Conv2d):
    """Kernels standardised by a batch norm that runs over them, with a gain each (NFNet)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.gain = nn.Parameter(torch.rand(outputs, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = self.gain.view(-1) * self.weight[0].numel() ** -0.5
        rows = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0)
        return F.conv2d(x, rows.reshape_as(self.weight), self.bias, padding=self.padding)


def squeezed(m: Body, x: Tensor) -> Tensor:
    x = m.a(x)
    gate = m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid()
    return x * gate


def squeezed_by_linear(m: Body, x: Tensor) -> Tensor:
    x = m.a(x)
    b, c, _, _ = x.shape
    gate = m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1).view(b, c))))
    return x * gate.view(b, c, 1, 1).sigmoid()


def efficient_channels(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    line = y.mean((2, 3)).unsqueeze(1)
    return m.b(y * m.line(line).transpose(1, 2).unsqueeze(-1).sigmoid())


def channels_and_places(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    pooled = (y.mean((2, 3), keepdim=True), y.amax((2, 3), keepdim=True))
    return m.b(y * sum(m.up(m.down(p).relu()) for p in pooled).sigmoid())


def places(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], dim=1)
    return m.b(y * m.look(seen).sigmoid())


def coordinates(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    rows, columns = y.mean(3, keepdim=True), y.mean(2, keepdim=True).transpose(2, 3)
    mixed = m.down(torch.cat([rows, columns], dim=2)).relu()
    rows, columns = mixed.split([8, 8], dim=2)
    return m.b(y * m.rows(rows).sigmoid() * m.columns(columns).transpose(2, 3).sigmoid())


def selective(m: Body, x: Tensor) -> Tensor:
    near, far = m.near(x), m.far(x)
    gate = m.down((near + far).mean((2, 3), keepdim=True)).relu()
    share = torch.stack([m.one(gate), m.two(gate)], dim=1).softmax(1)
    return m.out(near * share[:, 0] + far * share[:, 1])


def split_attention(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    b = y.shape[0]
    parts = y.view(b, 2, y.shape[1] // 2, *y.shape[2:])
    gate = m.up(m.down(parts.sum(1).mean((2, 3), keepdim=True)).relu())
    share = gate.view(b, 2, -1, 1, 1).softmax(1)
    return m.out((parts * share).sum(1))


def softmax_over_channels(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).softmax(dim=1))


def channel_mean(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y - y.mean(dim=1, keepdim=True))


def unit_length(m: Body, x: Tensor) -> Tensor:
    return m.b(F.normalize(m.a(x), dim=1))


def root_mean_square(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).permute(0, 2, 3, 1)
    return m.b(m.norm(y)).permute(0, 3, 1, 2)


def convnext(m: Body, x: Tensor) -> Tensor:
    y = m.norm(m.local(m.inside(x)).permute(0, 2, 3, 1))
    y = m.down(F.gelu(m.up(y))).permute(0, 3, 1, 2)
    return m.out(m.inside(x) + y)


def per_head(m: Body, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    y = m.a(x).reshape(batch, -1, 4, height, width)  # heads of four channels, however many
    return m.b((y * y.softmax(dim=2)).flatten(1, 2))


def learned_activations(m: Body, x: Tensor) -> Tensor:
    return m.b(m.act(m.a(x)) * m.shared(m.a(x)))


ALL = [
    Construction(
        "squeeze and excite",
        lam(squeezed, a=conv(8, 10), down=conv(10, 4), up=conv(4, 10)),
        10,
        {"stem": 8, "body.a": 10, "body.down": 4},
    ),
    Construction(
        "squeeze and excite by linear layers",
        lam(squeezed_by_linear, a=conv(8, 10), down=linear(10, 4), up=linear(4, 10)),
        10,
        {"stem": 8, "body.a": 10, "body.down": 4},
    ),
    Construction(
        "efficient channel attention",
        lam(
            efficient_channels,
            a=conv(8, 6),
            line=make(nn.Conv1d, 1, 1, 3, padding=1, bias=False),
            b=conv(6, 5),
        ),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "a convolution runs along its channels"},
    ),
    Construction(
        "channel attention by two pools",
        lam(channels_and_places, a=conv(8, 6), down=conv(6, 3), up=conv(3, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.down": 3, "body.b": 5},
    ),
    Construction(
        "attention to places",
        lam(places, a=conv(8, 6), look=conv(2, 1, 3), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "mean and maximum are taken over its channels"},
    ),
    Construction(
        "coordinate attention",
        lam(
            coordinates,
            a=conv(8, 6),
            down=conv(6, 4),
            rows=conv(4, 6),
            columns=conv(4, 6),
            b=conv(6, 5),
        ),
        5,
        {"stem": 8, "body.a": 6, "body.down": 4, "body.b": 5},
    ),
    Construction(
        "selective kernels",
        lam(
            selective,
            near=conv(8, 6, 3),
            far=conv(8, 6, 3, padding=2, dilation=2),
            down=conv(6, 3),
            one=conv(3, 6),
            two=conv(3, 6),
            out=conv(6, 5),
        ),
        5,
        {"stem": 8, "body.near": 6, "body.down": 3, "body.out": 5},
    ),
    Construction(
        "split attention",
        lam(split_attention, a=conv(8, 12, 3, 2), down=conv(6, 4), up=conv(4, 12), out=conv(6, 5)),
        5,
        {"stem": 4, "body.a": 6, "body.down": 4, "body.out": 5},
    ),
    Construction(
        "instance norm",
        seq(conv(8, 6), make(nn.InstanceNorm2d, 6, affine=True), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "instance norm without weights",
        seq(conv(8, 6), make(nn.InstanceNorm2d, 6), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "batch norm without weights",
        seq(conv(8, 6), make(nn.BatchNorm2d, 6, affine=False), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "group norm",
        seq(conv(8, 24, 3), make(nn.GroupNorm, 6, 24), nn.ReLU, conv(24, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.3": 5},
    ),
    Construction(
        "group norm of a sum",
        lambda: Body(
            lambda m, x: m.c(m.norm(m.a(x) + m.b(x)).relu()),
            a=nn.Conv2d(8, 12, 1),
            b=nn.Conv2d(8, 12, 3, padding=1),
            norm=nn.GroupNorm(4, 12),
            c=nn.Conv2d(12, 5, 1),
        ),
        5,
        {"stem": 8, "body.a": 4, "body.c": 5},
    ),
    Construction(
        "group norm of one group",
        seq(conv(8, 6), make(nn.GroupNorm, 1, 6), conv(6, 5)),
        5,
        {"stem": 8, "body.2": 5},
        {"body.0": STATISTICS},
    ),
    Construction(
        "layer norm of a map",
        seq(conv(8, 6), make(MapNorm, 6), conv(6, 5)),
        5,
        {"stem": 8, "body.2": 5},
        {"body.0": STATISTICS},
    ),
    Construction(
        "root mean square norm",
        lam(root_mean_square, a=conv(8, 6), norm=make(nn.RMSNorm, 6), b=linear(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": STATISTICS},
    ),
    Construction(
        "local response norm",
        seq(conv(8, 6), make(nn.LocalResponseNorm, 3, 1.0), conv(6, 5)),
        5,
        {"stem": 8, "body.2": 5},
        {"body.0": "its norm looks at neighbouring channels"},
    ),
    Construction(
        "global response norm",
        seq(conv(8, 6), make(ResponseNorm, 6), conv(6, 5)),
        5,
        {"stem": 8, "body.2": 5},
        {"body.0": STATISTICS},
    ),
    Construction(
        "filter response norm",
        seq(conv(8, 6), make(FilterResponse, 6), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "frozen norm",
        seq(conv(8, 6), make(FrozenNorm, 6), nn.ReLU, conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.3": 5},
    ),
    Construction(
        "ConvNeXt block",
        lam(
            convnext,
            inside=conv(8, 10),
            local=conv(10, 10, 7, 10),
            norm=make(nn.LayerNorm, 10),
            up=linear(10, 12),
            down=linear(12, 10),
            out=conv(10, 5),
        ),
        5,
        {"stem": 8, "body.up": 12, "body.out": 5},
        {"body.inside": STATISTICS, "body.down": STATISTICS},
    ),
    # switched off where the norm is taken, an input is gone from the norm as well
    Construction(
        "weight norm",
        lambda: nn.Sequential(
            nn.Conv2d(8, 7, 1),
            parametrizations.weight_norm(nn.Conv2d(7, 6, 3, padding=1)),
            nn.ReLU(),
            nn.Conv2d(6, 5, 1),
        ),
        5,
        {"stem": 8, "body.0": 7, "body.1": 6, "body.3": 5},
    ),
    Construction(
        "spectral norm",
        lambda: nn.Sequential(
            nn.Conv2d(8, 7, 1),
            parametrizations.spectral_norm(nn.Conv2d(7, 6, 3, padding=1)),
            nn.Conv2d(6, 5, 1),
        ),
        5,
        {"stem": 8, "body.2": 5},
        {"body.0": "the norm is of the whole weight", "body.1": "the norm is of the whole weight"},
    ),
    Construction(
        "standardised weights",
        lambda: nn.Sequential(
            nn.Conv2d(8, 7, 1), StandardConv(7, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        ),
        5,
        {"stem": 8, "body.1": 6, "body.2": 5},
        {"body.0": "a weight that is standardised over its inputs reads it"},
    ),
    Construction(
        "standardised weights with a gain",
        lambda: nn.Sequential(nn.Conv2d(8, 7, 1), ScaledStandardConv(7, 6, 3), nn.Conv2d(6, 5, 1)),
        5,
        {"stem": 8, "body.1": 6, "body.2": 5},
        {"body.0": "a weight that is standardised over its inputs reads it"},
    ),
    Construction(
        "softmax over channels",
        lam(softmax_over_channels, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "a softmax over its channels"},
    ),
    Construction(
        "mean over channels",
        lam(channel_mean, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "a mean over its channels"},
    ),
    Construction(
        "unit length over channels",
        lam(unit_length, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "a length over its channels"},
    ),
    Construction(
        "softmax inside heads",
        lam(per_head, a=conv(8, 24), b=conv(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "learned activations",
        lam(
            learned_activations,
            a=conv(8, 6),
            act=make(nn.PReLU, 6),
            shared=make(nn.PReLU),
            b=conv(6, 5),
        ),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
]
