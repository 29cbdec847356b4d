"""Sums, concatenations, splits, shuffles: how maps of convolutional networks meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.bodies import Body
from support.constructions.base import Construction, conv, lam, linear, make, seq


def residual(m: Body, x: Tensor) -> Tensor:
    return x + m.b(F.gelu(m.norm(m.a(x))))


def projected(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu()) + m.shortcut(x)


def dense_block(m: Body, x: Tensor) -> Tensor:
    y = torch.cat([x, m.a(x)], dim=1)
    return torch.cat([y, m.b(y), x], dim=1)


def halves(m: Body, x: Tensor) -> Tensor:
    left, right = m.a(x).chunk(2, dim=1)
    return m.c(torch.cat([left, right, m.b(right).relu()], dim=1))


def gated(m: Body, x: Tensor) -> Tensor:
    value, gate = m.a(x).chunk(2, dim=1)
    return value * gate.tanh()


def glu(m: Body, x: Tensor) -> Tensor:
    return m.b(F.glu(m.a(x), dim=1))


def swiglu(m: Body, x: Tensor) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    return m.down(F.silu(m.gate(y)) * m.up(y)).permute(0, 3, 1, 2)


def shuffled(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    b, c, h, w = y.shape
    return m.b(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def shuffle_unit(m: Body, x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    y = torch.cat([left, m.c(m.b(m.a(right).relu())).relu()], dim=1)
    b, c, h, w = y.shape
    return y.view(b, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)


def stacked_shuffle(m: Body, x: Tensor) -> Tensor:
    return torch.stack([m.a(x), m.b(x)], dim=2).flatten(1, 2)


def ghost(m: Body, x: Tensor) -> Tensor:
    y = m.primary(x).relu()
    return m.out(torch.cat([y, m.cheap(y).relu()], dim=1))


def scales_of_a_block(m: Body, x: Tensor) -> Tensor:
    first, second, third = m.a(x).relu().chunk(3, dim=1)
    second = m.b(second).relu()
    third = m.c(third + second).relu()
    return m.d(torch.cat([first, second, third], dim=1))


def in_place(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(x)
    return y.relu_()


def three_branches(m: Body, x: Tensor) -> Tensor:
    return (m.wide(x) + m.narrow(x) + m.norm(x)).relu()


def inception(m: Body, x: Tensor) -> Tensor:
    pooled = m.pool(F.avg_pool2d(x, 3, 1, 1))
    return torch.cat([m.row(m.reduce(x).relu()), m.column(x), pooled], dim=1)


def aspp(m: Body, x: Tensor) -> Tensor:
    pooled = m.pool(F.adaptive_avg_pool2d(x, 1)).relu()
    up = F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)
    return m.out(torch.cat([m.near(x), m.far(x), up], dim=1).relu())


def pyramid_pooling(m: Body, x: Tensor) -> Tensor:
    maps = [x]
    for side, layer in ((1, m.one), (2, m.two), (4, m.four)):
        maps.append(F.interpolate(layer(F.adaptive_avg_pool2d(x, side)), size=x.shape[2:]))
    return m.out(torch.cat(maps, dim=1))


def top_down(m: Body, x: Tensor) -> Tensor:
    fine = m.fine(x).relu()
    coarse = m.coarse(fine).relu()
    top = m.lateral2(coarse)
    y = m.lateral1(fine) + F.interpolate(top, scale_factor=2, mode="nearest")
    return m.smooth(y)


def weighted_sum(m: Body, x: Tensor) -> Tensor:
    weight = m.share.weight.relu()
    weight = weight / (weight.sum() + 1e-4)
    return m.c(weight[0, 0] * m.a(x) + weight[0, 1] * m.b(x))


def u_net(m: Body, x: Tensor) -> Tensor:
    fine = m.enc1(x).relu()
    coarse = m.enc2(F.max_pool2d(fine, 2)).relu()
    return m.dec(torch.cat([m.up(coarse), fine], dim=1))


def exchanged(m: Body, x: Tensor) -> Tensor:
    high, low = m.high(x).relu(), m.low(x).relu()
    high2 = high + F.interpolate(m.to_high(low), scale_factor=2)
    low2 = low + m.to_low(high)
    return torch.cat([m.out1(high2), F.interpolate(m.out2(low2), scale_factor=2)], dim=1)


def octave(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    high, low = y.chunk(2, dim=1)
    low = F.avg_pool2d(low, 2)
    mixed = m.hh(high) + F.interpolate(m.lh(low), scale_factor=2)
    return m.out(mixed.relu())


def uneven(m: Body, x: Tensor) -> Tensor:
    left, right = m.a(x).split([2, 4], dim=1)
    return m.b(torch.cat([left.relu(), right], dim=1))


def sliced(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x)[:, :4])


def partial_conv(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.c(torch.cat([m.b(y[:, :2]), y[:, 2:]], dim=1))


def rolled(m: Body, x: Tensor) -> Tensor:
    return m.b(m.a(x).roll(1, dims=1))


def twice(m: Body, x: Tensor) -> Tensor:
    return m.a(F.relu(m.a(x)))


def tied(m: Body, x: Tensor) -> Tensor:
    y = F.conv2d(x, m.a.weight, m.a.bias).relu()
    return F.conv_transpose2d(y, m.a.weight)


def shared_over_levels(m: Body, x: Tensor) -> Tensor:
    one, two = m.level1(x), m.level2(x)
    a, b = m.tower(one).relu(), m.tower(two).relu()
    return m.out(a) + F.interpolate(m.out(b), scale_factor=2)


def scaled_levels(m: Body, x: Tensor) -> Tensor:
    return m.out(m.a(x).relu() * m.scale.weight[0, 0])


class LayerScale(nn.Module):
    """A learnable factor per channel on a residual branch, and one for the whole branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 1)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))
        self.alpha = nn.Parameter(torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.gamma * self.b(self.a(x).relu()) * self.alpha
        return out


ALL = [
    Construction(
        "residual",
        lam(residual, a=conv(8, 12, 3), norm=make(nn.BatchNorm2d, 12), b=conv(12, 8, 3)),
        8,
        {"stem": 8, "body.a": 12},
    ),
    Construction(
        "residual with a projection",
        lam(projected, a=conv(8, 12, 3), b=conv(12, 10), shortcut=conv(8, 10)),
        10,
        {"stem": 8, "body.a": 12, "body.b": 10},
    ),
    Construction("learnable scales", LayerScale, 8, {"stem": 8, "body.a": 10}),
    Construction(
        "dense block",
        lam(dense_block, a=conv(8, 5), b=conv(13, 4)),
        25,
        {"stem": 8, "body.a": 5, "body.b": 4},
    ),
    Construction(
        "halves that stay and pass on",
        lam(halves, a=conv(8, 12), b=conv(6, 4, 3), c=conv(16, 7)),
        7,
        {"stem": 8, "body.a": 6, "body.b": 4, "body.c": 7},
    ),
    Construction("gated halves", lam(gated, a=conv(8, 12)), 6, {"stem": 8, "body.a": 6}),
    Construction(
        "gated linear unit",
        lam(glu, a=conv(8, 12), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "SwiGLU of three layers",
        lam(swiglu, gate=linear(8, 12), up=linear(8, 12), down=linear(12, 6)),
        6,
        {"stem": 8, "body.gate": 12, "body.down": 6},
    ),
    Construction(
        "channel shuffle",
        lam(shuffled, a=conv(8, 12), b=conv(12, 6)),
        6,
        {"stem": 8, "body.a": 6, "body.b": 6},
    ),
    # the halves that are shuffled stay equal, so what the branch writes goes with the stem
    Construction(
        "shuffle unit",
        lam(shuffle_unit, a=conv(4, 6), b=conv(6, 6, 3, 6), c=conv(6, 4)),
        8,
        {"stem": 4, "body.a": 6},
    ),
    Construction(
        "stacked shuffle",
        lam(stacked_shuffle, a=conv(8, 6), b=conv(8, 6)),
        12,
        {"stem": 8, "body.a": 6},
    ),
    Construction(
        "ghost module",
        lam(ghost, primary=conv(8, 6), cheap=conv(6, 6, 3, 6), out=conv(12, 5)),
        5,
        {"stem": 8, "body.primary": 6, "body.out": 5},
    ),
    Construction(
        "scales inside a block",
        lam(scales_of_a_block, a=conv(8, 12), b=conv(4, 4, 3), c=conv(4, 4, 3), d=conv(12, 5)),
        5,
        {"stem": 8, "body.a": 4, "body.c": 4, "body.d": 5},
    ),
    Construction(
        "in place", lam(in_place, a=conv(8, 6), b=conv(8, 6)), 6, {"stem": 8, "body.a": 6}
    ),
    Construction(
        "re-parametrised branches",
        lam(three_branches, wide=conv(8, 8, 3), narrow=conv(8, 8), norm=make(nn.BatchNorm2d, 8)),
        8,
        {"stem": 8},
    ),
    Construction(
        "inception",
        lam(
            inception,
            reduce=conv(8, 6),
            row=lambda: nn.Conv2d(6, 4, (1, 3), padding=(0, 1)),
            column=lambda: nn.Conv2d(8, 4, (3, 1), padding=(1, 0)),
            pool=conv(8, 2),
        ),
        10,
        {"stem": 8, "body.pool": 2, "body.reduce": 6, "body.row": 4, "body.column": 4},
    ),
    Construction(
        "dilated branches with a pooled one",
        lam(
            aspp,
            near=conv(8, 4, 3),
            far=conv(8, 4, 3, padding=2, dilation=2),
            pool=conv(8, 4),
            out=conv(12, 6),
        ),
        6,
        {"stem": 8, "body.pool": 4, "body.near": 4, "body.far": 4, "body.out": 6},
    ),
    Construction(
        "pyramid pooling",
        lam(pyramid_pooling, one=conv(8, 2), two=conv(8, 2), four=conv(8, 2), out=conv(14, 6)),
        6,
        {"stem": 8, "body.one": 2, "body.two": 2, "body.four": 2, "body.out": 6},
    ),
    Construction(
        "feature pyramid",
        lam(
            top_down,
            fine=conv(8, 6),
            coarse=conv(6, 10, 3, stride=2),
            lateral1=conv(6, 8),
            lateral2=conv(10, 8),
            smooth=conv(8, 5, 3),
        ),
        5,
        {"stem": 8, "body.fine": 6, "body.coarse": 10, "body.lateral2": 8, "body.smooth": 5},
    ),
    Construction(
        "weighted sum of maps",
        lam(weighted_sum, a=conv(8, 6), b=conv(8, 6), c=conv(6, 5), share=linear(2, 1, False)),
        5,
        {"stem": 8, "body.a": 6, "body.c": 5},
    ),
    Construction(
        "U-Net skip",
        lam(
            u_net,
            enc1=conv(8, 6),
            enc2=conv(6, 10),
            up=make(nn.ConvTranspose2d, 10, 4, 2, 2),
            dec=conv(10, 5),
        ),
        5,
        {"stem": 8, "body.enc1": 6, "body.enc2": 10, "body.up": 4, "body.dec": 5},
    ),
    Construction(
        "exchange between resolutions",
        lam(
            exchanged,
            high=conv(8, 6),
            low=conv(8, 10, 3, stride=2),
            to_high=conv(10, 6),
            to_low=conv(6, 10, 3, stride=2),
            out1=conv(6, 3),
            out2=conv(10, 4),
        ),
        7,
        {"stem": 8, "body.high": 6, "body.low": 10, "body.out1": 3, "body.out2": 4},
    ),
    Construction(
        "octave",
        lam(octave, a=conv(8, 8), hh=conv(4, 6), lh=conv(4, 6), out=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 4, "body.hh": 6, "body.out": 5},
    ),
    Construction("layer used twice", lam(twice, a=conv(8, 8)), 8, {"stem": 8}),
    Construction("tied weights", lam(tied, a=conv(8, 6)), 8, {"stem": 8, "body.a": 6}),
    Construction(
        "head shared by levels",
        lam(
            shared_over_levels,
            level1=conv(8, 6),
            level2=conv(8, 6, 3, stride=2),
            tower=conv(6, 10, 3),
            out=conv(10, 4),
        ),
        4,
        {"stem": 8, "body.level1": 6, "body.tower": 10, "body.out": 4},
    ),
    Construction(
        "learnable scale of a level",
        lam(scaled_levels, a=conv(8, 6), scale=linear(1, 1, False), out=conv(6, 4)),
        4,
        {"stem": 8, "body.a": 6, "body.out": 4},
    ),
    Construction(
        "uneven split",
        lam(uneven, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "the sizes of the parts are written down"},
    ),
    Construction(
        "slice by number",
        lam(sliced, a=conv(8, 6), b=conv(4, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "where the slice ends is written down"},
    ),
    Construction(
        "partial convolution",
        lam(partial_conv, a=conv(8, 6), b=conv(2, 2, 3), c=conv(6, 5)),
        5,
        {"stem": 8, "body.a#1": 4, "body.b": 2, "body.c": 5},
        {"body.a": "where the first slice ends is written down"},
    ),
    Construction(
        "rolled channels",
        lam(rolled, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.b": 5},
        {"body.a": "the shift is written down"},
    ),
    Construction(
        "depthwise separable head",
        seq(conv(8, 8, 3, 8), conv(8, 6), nn.ReLU6, conv(6, 6, 3, 6), conv(6, 4)),
        4,
        {"stem": 8, "body.1": 6, "body.4": 4},
    ),
]
