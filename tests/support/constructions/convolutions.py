"""Kinds of convolution, resampling and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.layers import DeformableConv2d
from support.bodies import Body, grid
from support.constructions.base import Construction, conv, lam, linear, make, seq


def flattened(m: Body, x: Tensor) -> Tensor:
    x = F.adaptive_avg_pool2d(m.a(x), 2).flatten(1)
    return m.fc(x)[:, :, None, None]


def pixel_shuffled(m: Body, x: Tensor) -> Tensor:
    return F.avg_pool2d(m.b(F.pixel_shuffle(m.a(x), 2)), 2)


def unshuffled(m: Body, x: Tensor) -> Tensor:
    return m.b(F.pixel_unshuffle(m.a(x), 2))


def focus(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    parts = [y[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return m.b(torch.cat(parts, dim=1))


def patches_merged(m: Body, x: Tensor) -> Tensor:
    y = m.a(x).permute(0, 2, 3, 1)
    y = torch.cat([y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
    return m.b(y).permute(0, 3, 1, 2)


def resized(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    y = F.interpolate(y, scale_factor=2, mode="nearest")
    y = F.interpolate(y, size=(12, 12), mode="bilinear", align_corners=True)
    return m.b(F.interpolate(y, size=(8, 8), mode="bicubic", align_corners=False))


def by_area(m: Body, x: Tensor) -> Tensor:
    return m.b(F.interpolate(m.a(x), scale_factor=0.5, mode="area"))


def without_aliases(m: Body, x: Tensor) -> Tensor:
    return m.b(F.interpolate(m.a(x), size=(4, 4), mode="bilinear", antialias=True))


def sampled(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    rows = torch.linspace(-1, 1, 8, device=x.device)
    places = torch.stack(torch.meshgrid(rows, rows, indexing="xy"), -1)[None]
    flow = m.flow(y).permute(0, 2, 3, 1).tanh() * 0.2
    return m.b(F.grid_sample(y, places + flow, align_corners=True))


def padded_by_hand(m: Body, x: Tensor) -> Tensor:
    y = F.max_pool2d(m.a(x), 2)
    y = F.interpolate(y, scale_factor=2, mode="bilinear")
    return m.b(F.pad(y, (1, 0, 1, 0)))


def padded_circular(m: Body, x: Tensor) -> Tensor:
    return m.b(F.pad(m.a(x), (1, 1, 1, 1), mode="circular"))


def unfolded(m: Body, x: Tensor) -> Tensor:
    columns = F.unfold(m.a(x), 2, stride=2)
    return grid(m.b(columns.transpose(1, 2)), F.max_pool2d(x, 2))


def folded(m: Body, x: Tensor) -> Tensor:
    columns = F.unfold(m.a(x), 3, padding=1)
    return m.b(F.fold(columns.tanh(), (8, 8), 3, padding=1))


def unpooled(m: Body, x: Tensor) -> Tensor:
    y, where = m.pool(m.a(x).relu())
    return m.c(m.unpool(m.b(y).relu(), where))


def along_rows(m: Body, x: Tensor) -> Tensor:
    return grid(m.b(m.a(x.flatten(2)).relu()).transpose(1, 2), x)


def volumes(m: Body, x: Tensor) -> Tensor:
    y = torch.stack([x, x.flip(3)], dim=2)
    return m.b(m.a(y).relu()).mean(2)


def computed_weight(m: Body, x: Tensor) -> Tensor:
    return m.c(F.conv2d(m.a(x), m.b.weight.tanh(), m.b.bias))


def strips(m: Body, x: Tensor) -> Tensor:
    y = m.a(x)
    row = m.row(y.mean(3, keepdim=True)).expand_as(y)
    column = m.column(y.mean(2, keepdim=True)).expand_as(y)
    return m.out(y * (row + column).sigmoid())


ALL = [
    Construction("depthwise", seq(conv(8, 8, 3, 8), conv(8, 6)), 6, {"stem": 8, "body.1": 6}),
    Construction(
        "depthwise multiplier",
        seq(conv(8, 16, 3, 8), conv(16, 6)),
        6,
        {"stem": 8, "body.1": 6},
    ),
    # four groups of 2 in and 3 out each: the share of each group shrinks alike
    Construction(
        "grouped", seq(conv(8, 12, 3, 4), make(nn.PReLU, 12)), 12, {"stem": 2, "body.0": 3}
    ),
    Construction(
        "inverted residual",
        seq(conv(8, 16), nn.ReLU6, conv(16, 16, 3, 16), make(nn.BatchNorm2d, 16), conv(16, 6)),
        6,
        {"stem": 8, "body.0": 16, "body.4": 6},
    ),
    Construction(
        "transposed",
        seq(make(nn.ConvTranspose2d, 8, 10, 2, 2), make(nn.AvgPool2d, 2)),
        10,
        {"stem": 8, "body.0": 10},
    ),
    Construction(
        "grouped transposed",
        seq(
            conv(8, 12),
            make(nn.ConvTranspose2d, 12, 8, 2, 2, groups=2),
            make(nn.AvgPool2d, 2),
            conv(8, 5),
        ),
        5,
        {"stem": 8, "body.0": 6, "body.1": 4, "body.3": 5},
    ),
    Construction(
        "depthwise transposed",
        seq(conv(8, 12), make(nn.ConvTranspose2d, 12, 12, 4, 2, 1, groups=12), conv(12, 5)),
        5,
        {"stem": 8, "body.0": 12, "body.2": 5},
    ),
    Construction(
        "flatten",
        lam(flattened, a=conv(8, 6), fc=linear(24, 7)),
        7,
        {"stem": 8, "body.a": 6, "body.fc": 7},
    ),
    Construction(
        "pixel shuffle",
        lam(pixel_shuffled, a=conv(8, 20), b=conv(5, 6, 3)),
        6,
        {"stem": 8, "body.a": 5, "body.b": 6},
    ),
    Construction(
        "pixel unshuffle",
        lam(unshuffled, a=conv(8, 6), b=conv(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "space to depth by slices",
        lam(focus, a=conv(8, 6), b=conv(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "patches merged, channels last",
        lam(patches_merged, a=conv(8, 6), b=linear(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "resized in three ways",
        lam(resized, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "resized by area",
        lam(by_area, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "resized without aliases",
        lam(without_aliases, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "average pooling with a divisor",
        seq(conv(8, 6), make(nn.AvgPool2d, 2, divisor_override=3), conv(6, 5)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "sampled along a flow",
        lam(sampled, a=conv(8, 6), flow=conv(6, 2, 3), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
        {"body.flow": "coordinates are no channels"},
    ),
    Construction(
        "up, down and padded",
        lam(padded_by_hand, a=conv(8, 6), b=make(nn.Conv2d, 6, 5, 2)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "zero padding as a layer",
        seq(conv(8, 6), make(nn.ZeroPad2d, 1), make(nn.Conv2d, 6, 5, 3)),
        5,
        {"stem": 8, "body.0": 6, "body.2": 5},
    ),
    Construction(
        "reflecting and replicating padding",
        seq(
            conv(8, 6),
            make(nn.ReflectionPad2d, 1),
            make(nn.Conv2d, 6, 7, 3),
            make(nn.ReplicationPad2d, 1),
            make(nn.Conv2d, 7, 5, 3),
        ),
        5,
        {"stem": 8, "body.0": 6, "body.2": 7, "body.4": 5},
    ),
    Construction(
        "padding modes of convolutions",
        seq(
            conv(8, 6, 3, padding_mode="reflect"),
            conv(6, 7, 3, padding_mode="circular"),
            conv(7, 5, 3, padding_mode="replicate"),
        ),
        5,
        {"stem": 8, "body.0": 6, "body.1": 7, "body.2": 5},
    ),
    Construction(
        "circular padding",
        lam(padded_circular, a=conv(8, 6), b=make(nn.Conv2d, 6, 5, 3)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "unfold, then a linear layer",
        lam(unfolded, a=conv(8, 6), b=linear(24, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "unfold and fold",
        lam(folded, a=conv(8, 6), b=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "max unpooling",
        lam(
            unpooled,
            a=conv(8, 12, 3),
            pool=make(nn.MaxPool2d, 2, return_indices=True),
            b=conv(12, 12, 3),
            unpool=make(nn.MaxUnpool2d, 2),
            c=conv(12, 6, 3),
        ),
        6,
        {"stem": 8, "body.a": 12, "body.c": 6},
    ),
    Construction(
        "deformable",
        lambda: nn.Sequential(nn.Conv2d(8, 6, 1), DeformableConv2d(6, 7, 3), nn.Conv2d(7, 5, 1)),
        5,
        {"stem": 8, "body.0": 6, "body.1": 7, "body.2": 5},
        {"body.1.offset_mask": "coordinates are no channels"},
    ),
    Construction(
        "one-dimensional",
        lam(along_rows, a=make(nn.Conv1d, 8, 6, 3, padding=1), b=make(nn.Conv1d, 6, 5, 1)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "three-dimensional",
        lam(volumes, a=make(nn.Conv3d, 8, 6, 3, padding=1), b=make(nn.Conv3d, 6, 5, 1)),
        5,
        {"stem": 8, "body.a": 6, "body.b": 5},
    ),
    Construction(
        "strip pooling",
        lam(strips, a=conv(8, 6), row=conv(6, 6), column=conv(6, 6), out=conv(6, 5)),
        5,
        {"stem": 8, "body.a": 6, "body.out": 5},
    ),
    Construction(
        "computed weight",
        lam(computed_weight, a=conv(8, 6), b=conv(6, 7), c=conv(7, 5)),
        5,
        {"stem": 8, "body.b": 7, "body.c": 5},
        {"body.a": "a weight that is computed reads it"},
    ),
]
