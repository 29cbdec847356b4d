"""Published M3ViT networks, described from their key names alone (design page m3vit, section 4).

Names and shapes of every tensor, random weights for them, and what such a network computes,
written without the package's layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORM = ("weight", "bias", "running_mean", "running_var")
#: gate order
ORDER = ("semseg", "human_parts", "sal", "normals", "edge", "depth")


@dataclass(frozen=True)
class Published:
    """One published configuration; ``tasks`` maps published names to channels, in gate order."""

    tasks: Mapping[str, int]
    grid: tuple[int, int]
    dim: int = 384
    depth: int = 12
    heads: int = 12
    experts: int = 16
    top_k: int = 4
    hidden: int = 384
    levels: int = 0
    gating: str = "per_task"
    noisy: bool = False
    width: int = 256


#: three tasks of different kinds in tiny layers
SMALL = Published(
    {"semseg": 3, "sal": 1, "depth": 1},
    (2, 4),
    dim=16,
    depth=4,
    heads=4,
    experts=4,
    top_k=2,
    hidden=8,
    levels=1,
    width=8,
)


NYUD = Published({"semseg": 40, "depth": 1}, (30, 40), levels=3)
PASCAL = Published(
    {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}, (32, 32), levels=2
)
Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int) -> Shapes:
    return {**{f"{name}.{part}": (width,) for part in NORM}, f"{name}.num_batches_tracked": ()}


def _experts(p: Published, name: str, experts: int) -> Shapes:
    return {
        f"{name}.htoh4.weight": (experts, p.hidden, p.dim),
        f"{name}.htoh4.bias": (experts, p.hidden),
        f"{name}.h4toh.weight": (experts, p.dim, p.hidden),
        f"{name}.h4toh.bias": (experts, p.dim),
    }


def shapes(p: Published) -> Shapes:
    """Name -> shape of everything in rank 0 of a network trained on one GPU."""
    d, n = p.dim, len(p.tasks)
    found: Shapes = {
        "backbone.cls_token": (1, 1, d),
        "backbone.pos_embed": (1, 1 + p.grid[0] * p.grid[1], d),
        **_layer("backbone.patch_embed.proj", d, 3, 16, 16),
    }
    for i in range(p.depth):
        b = f"backbone.blocks.{i}"
        found |= {**_layer(f"{b}.norm1", d), **_layer(f"{b}.norm2", d)}
        found |= {**_layer(f"{b}.attn.qkv", 3 * d, d), **_layer(f"{b}.attn.proj", d, d)}
        if i % 2 == 0:
            found |= {**_layer(f"{b}.mlp.fc1", 4 * d, d), **_layer(f"{b}.mlp.fc2", d, 4 * d)}
            continue
        found |= _experts(p, f"{b}.mlp.experts", p.experts)
        reads = d + (64 if p.gating == "task_conditioned" else 0)
        gates = [f".{t}" for t in range(n)] if p.gating == "per_task" else [""]
        for gate in gates:
            found[f"{b}.mlp.gate{gate}.w_gate"] = (reads, p.experts)
            if p.noisy:
                found[f"{b}.mlp.gate{gate}.w_noise"] = (reads, p.experts)
    if p.gating == "task_conditioned":
        e = "backbone.gate_task_represent"
        found |= {
            **_layer(f"{e}.fc1", 64, n),
            **_layer(f"{e}.fc2", 64, 64),
            **_layer(f"{e}.norm", 64),
        }
    for task, channels in p.tasks.items():
        found |= _layer(f"decoders.{task}.norm", d)
        for i in range(4):
            found |= _layer(f"decoders.{task}.conv_{i}", p.width, d if i == 0 else p.width, 3, 3)
            found |= _norm(f"decoders.{task}.syncbn_fc_{i}", p.width)
        found |= _layer(f"decoders.{task}.conv_4", channels, p.width, 1, 1)
    for level in range(p.levels):
        t, w = f"tam_model{level}", p.width
        for part, inputs in [("layers0", n * w), ("layers1", w), ("layers2", n * w)]:
            found |= {**_layer(f"{t}.{part}.0", w, inputs, 3, 3), **_norm(f"{t}.{part}.1", w)}
        for part in ("encoder0", "encoder1", "decoder0", "decoder1"):
            found |= {**_layer(f"{t}.{part}.0", w, w, 3, 3), **_norm(f"{t}.{part}.1", w)}
        for task, channels in p.tasks.items():
            found |= _layer(f"{t}.layers3.{task}.0", w, n * w, 3, 3)
            found |= _norm(f"{t}.layers3.{task}.1", w)
            found |= _layer(f"{t}.layers4.{task}.0", channels, w, 1, 1)
    return found


def random_state(p: Published, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of these names and shapes; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(p).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=generator) * 0.2
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        if "norm" in name and name.endswith(".weight"):
            value = value + 1
        if name.endswith("w_gate"):
            value = value * 5
        state[name] = value
    return state


def in_ranks(p: Published, state: Mapping[str, Tensor], ranks: int) -> list[dict[str, Tensor]]:
    """As training on several GPUs saves it: experts in shards, ``module.`` before every name."""
    size = p.experts // ranks
    parts: list[dict[str, Tensor]] = []
    for rank in range(ranks):
        part = {}
        for name, value in state.items():
            if ".mlp.experts." in name:
                part[f"module.{name}"] = value[rank * size : (rank + 1) * size].clone()
            elif rank == 0:
                part[f"module.{name}"] = value
        parts.append(part)
    return parts


def encoder_state(p: Published, side: int, seed: int = 1) -> dict[str, Tensor]:
    """An ImageNet encoder: no prefix, one gate, a square grid, norm and classifier at the end."""
    single = Published(**{**p.__dict__, "gating": "single", "grid": (side, side)})
    state = {
        name.removeprefix("backbone."): value
        for name, value in random_state(single, seed).items()
        if name.startswith("backbone.")
    }
    extra = {**_layer("norm", p.dim), **_layer("head", 10, p.dim)}
    return state | {name: torch.zeros(shape) for name, shape in extra.items()}


def compute(p: Published, s: Mapping[str, Tensor], images: Tensor, task: str) -> Tensor:
    """(1, 3, H, W) -> (1, C, H, W) of one task, token by token and expert by expert."""
    x = F.conv2d(
        images, s["backbone.patch_embed.proj.weight"], s["backbone.patch_embed.proj.bias"], 16
    )
    x = torch.cat([s["backbone.cls_token"][0], x[0].flatten(1).t()]) + s["backbone.pos_embed"][0]
    names = list(p.tasks)
    for i in range(p.depth):
        b = f"backbone.blocks.{i}"
        y = _linear(s, f"{b}.attn.qkv", _layer_norm(s, f"{b}.norm1", x, 1e-6))
        q, k, v = (part.unflatten(1, (p.heads, -1)) for part in y.split(p.dim, dim=1))
        scores = torch.einsum("nhc,mhc->hnm", q, k) * (p.dim // p.heads) ** -0.5
        y = torch.einsum("hnm,mhc->nhc", scores.softmax(-1), v).flatten(1)
        x = x + _linear(s, f"{b}.attn.proj", y)
        y = _layer_norm(s, f"{b}.norm2", x, 1e-6)
        if i % 2 == 0:
            x = x + _linear(s, f"{b}.mlp.fc2", F.gelu(_linear(s, f"{b}.mlp.fc1", y)))
        else:
            x = x + _mixture(p, s, f"{b}.mlp", y, names.index(task))
    d = f"decoders.{task}"
    x = _layer_norm(s, f"{d}.norm", x[1:], 1e-6).t().reshape(1, p.dim, *p.grid)
    for i in range(4):
        x = F.conv2d(x, s[f"{d}.conv_{i}.weight"], s[f"{d}.conv_{i}.bias"], padding=1)
        weight, bias, mean, var = (s[f"{d}.syncbn_fc_{i}.{part}"] for part in NORM)
        x = F.batch_norm(x, mean, var, weight, bias).relu()
        if i < 3:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    x = F.conv2d(x, s[f"{d}.conv_4.weight"], s[f"{d}.conv_4.bias"])
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _linear(s: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].t() + s[f"{name}.bias"]


def _layer_norm(s: Mapping[str, Tensor], name: str, x: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], epsilon)


def _mixture(p: Published, s: Mapping[str, Tensor], name: str, x: Tensor, task: int) -> Tensor:
    reads, gate = x, f"{name}.gate.{task}" if p.gating == "per_task" else f"{name}.gate"
    if p.gating == "task_conditioned":
        e = "backbone.gate_task_represent"
        one_hot = F.one_hot(torch.tensor(task), len(p.tasks)).float()
        vector = _linear(s, f"{e}.fc2", F.gelu(_linear(s, f"{e}.fc1", one_hot)))
        vector = _layer_norm(s, f"{e}.norm", vector, 1e-5)
        reads = torch.cat([x, vector.expand(len(x), -1)], dim=1)
    logits = reads @ s[f"{gate}.w_gate"]
    out = torch.zeros_like(x)
    for token in range(len(x)):
        kept: Sequence[int] = logits[token].argsort(descending=True)[: p.top_k].tolist()
        among = logits[token][kept] if p.noisy else logits[token]
        shares = among.softmax(0) if p.noisy else among.softmax(0)[kept]
        for share, expert in zip(shares, kept, strict=True):
            w = f"{name}.experts"
            h = F.gelu(s[f"{w}.htoh4.weight"][expert] @ x[token] + s[f"{w}.htoh4.bias"][expert])
            out[token] += share * (
                s[f"{w}.h4toh.weight"][expert] @ h + s[f"{w}.h4toh.bias"][expert]
            )
    return out
