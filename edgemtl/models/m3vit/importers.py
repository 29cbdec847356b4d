"""Published M3ViT files (section 4): trained networks, whole or in ranks, and ImageNet encoders.

Every published key is accounted for: mapped, or dropped by name with the reason. Whatever else
appears, or is missing, refuses the import.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.errors import InputRefused
from edgemtl.models.checkpoint import load_tensors, load_weights
from edgemtl.models.importing import Names, plain_state, rename
from edgemtl.models.m3vit.decoders import STAGES, grid_of
from edgemtl.models.m3vit.gates import EMBEDDING
from edgemtl.models.m3vit.network import VARIANTS, M3ViT
from edgemtl.models.m3vit.vit import SHARED
from edgemtl.models.registry import build

#: published name of a task -> our kind, in gate order
KINDS = {
    "semseg": "segmentation",
    "human_parts": "parts",
    "sal": "saliency",
    "normals": "normals",
    "edge": "edges",
    "depth": "depth",
}
#: tokens -> input size of the published data sets (NYUD-v2, PASCAL-Context)
SIZES = {1201: (480, 640), 1025: (512, 512)}
#: distillation between tasks: only training uses it
DROPPED = ("tam_model",)
#: an ImageNet encoder's classifier and the norm before it; decoders bring their own norm
DROPPED_OF_ENCODER = ("head.", "norm.", "pre_logits.")

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_EXPERTS = re.compile(r"\.mlp\.experts\.(htoh4|h4toh)\.(weight|bias)$")


def merge_ranks(ranks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One state dict from those of all ranks: experts lie in shards, rank 0 has all the rest.

    Raises:
        InputRefused: another rank holds something else, or lacks a shard.
    """
    merged = dict(ranks[0])
    shards = [key for key in merged if _EXPERTS.search(key)]
    for number, rank in enumerate(ranks[1:], start=1):
        odd = sorted(rank.keys() ^ set(shards))
        if odd:
            raise InputRefused(
                f"rank {number} should hold its experts and nothing else, {len(odd)} keys differ, "
                f"first '{odd[0]}'"
            )
    for key in shards:
        parts = [rank[key] for rank in ranks]
        if len({part.shape[1:] for part in parts}) != 1:
            raise InputRefused(f"the shards of '{key}' have different shapes")
        merged[key] = torch.cat(parts, dim=0)
    return merged


def read_state(source: Path) -> dict[str, Tensor]:
    """The state dict of a file, or of a folder ``NAME.pth.tar/`` with ``0.pth``, ``1.pth``, ...

    Raises:
        InputRefused: unreadable or unsafe, a rank is missing, or shards do not fit.
    """
    if not source.is_dir():
        return plain_state(load_tensors(source))
    found = {int(p.stem): p for p in source.glob("*.pth") if p.stem.isdecimal()}
    if not found or sorted(found) != list(range(len(found))):
        raise InputRefused(
            f"the ranks are not complete: {sorted(found)}",
            where=str(source),
            hint="expected 0.pth, 1.pth, ... in this folder",
        )
    try:
        return merge_ranks([plain_state(load_tensors(found[rank])) for rank in sorted(found)])
    except InputRefused as error:
        error.where = error.where or str(source)
        raise


def _both(ours: str, theirs: str) -> Names:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}


def encoder_names(network: M3ViT, prefix: str = "backbone.") -> Names:
    """Published keys of the encoder -> ours, all but those of the gates."""
    names = {
        f"{prefix}cls_token": "backbone.token",
        f"{prefix}pos_embed": "backbone.position",
        **_both("backbone.patch", f"{prefix}patch_embed.proj"),
    }
    for index in range(len(network.backbone.blocks)):
        theirs, ours = f"{prefix}blocks.{index}", f"backbone.blocks.{index}"
        for part in ("norm1", "norm2", "attn.qkv", "attn.proj"):
            names.update(_both(f"{ours}.{part}", f"{theirs}.{part}"))
        if index % 2 == 0 or not network.arguments["experts"]:
            for part in ("mlp.fc1", "mlp.fc2"):
                names.update(_both(f"{ours}.{part}", f"{theirs}.{part}"))
            continue
        for part, shard in (("in", "htoh4"), ("out", "h4toh")):
            for kind in ("weight", "bias"):
                names[f"{theirs}.mlp.experts.{shard}.{kind}"] = f"{ours}.mlp.experts.{kind}_{part}"
    return names


def gate_names(network: M3ViT) -> Names:
    """Published keys of the gates (their matrices lie transposed) and of the task embedding."""
    names: Names = {}
    kinds = {"w_gate": "score"}
    if network.arguments["noise"] == "shazeer":
        kinds["w_noise"] = "spread"
    own = network.arguments["gating"] == "per_task"
    gates = [task.name for task in network.tasks] if own else [SHARED]
    for index in range(1, len(network.backbone.blocks), 2) if network.arguments["experts"] else ():
        for number, gate in enumerate(gates):
            theirs = f"backbone.blocks.{index}.mlp.gate" + (f".{number}" if own else "")
            for key, ours in kinds.items():
                names[f"{theirs}.{key}"] = f"backbone.blocks.{index}.mlp.gates.{gate}.{ours}.weight"
    if network.backbone.embedding is not None:
        for part in ("fc1", "fc2", "norm"):
            names.update(
                _both(f"backbone.embedding.{part}", f"backbone.gate_task_represent.{part}")
            )
    return names


def decoder_names(task: str) -> Names:
    """Published keys of one decoder."""
    theirs, ours = f"decoders.{task}", f"decoders.{task}"
    names = {
        **_both(f"{ours}.norm", f"{theirs}.norm"),
        **_both(f"{ours}.classifier", f"{theirs}.conv_{STAGES}"),
    }
    for stage in range(STAGES):
        names.update(_both(f"{ours}.stages.{stage}.conv", f"{theirs}.conv_{stage}"))
        for part in _NORM:
            names[f"{theirs}.syncbn_fc_{stage}.{part}"] = f"{ours}.stages.{stage}.norm.{part}"
    return names


def import_published(
    source: Path,
    *,
    size: tuple[int, int] | None = None,
    top_k: int = 4,
    heads: int | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> M3ViT:
    """A trained network as published: a file, or a folder of ranks.

    The file does not say its input size, the number of heads, nor how many experts a token uses.

    Args:
        source: file or folder.
        size: height and width; known for the published 1201 and 1025 tokens.
        top_k: experts per token; 4 as published.
        heads: attention heads; those of the variant of this width by default.
        classes: names per segmentation task, ``class_0``, ... by default.

    Raises:
        InputRefused: unreadable, or not of this layout.
    """
    state = read_state(source)
    network = build("m3vit", _arguments(state, size, top_k, heads, classes or {}))
    assert isinstance(network, M3ViT)
    names = encoder_names(network) | gate_names(network)
    for task in network.tasks:
        names.update(decoder_names(task.name))
    ours = rename(state, names, DROPPED)
    for key in gate_names(network).values():
        if key.endswith((".score.weight", ".spread.weight")):
            ours[key] = ours[key].t().contiguous()
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            ours.setdefault(key, value)
    load_weights(network, ours)
    return network.eval()


def _arguments(
    state: Mapping[str, Tensor],
    size: tuple[int, int] | None,
    top_k: int,
    heads: int | None,
    classes: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Constructor arguments, as far as shapes and names tell them."""
    try:
        dim = int(state["backbone.cls_token"].shape[2])
        tokens = int(state["backbone.pos_embed"].shape[1])
    except (KeyError, IndexError) as error:
        raise InputRefused(
            "the file has no 'backbone.cls_token' and 'backbone.pos_embed' of an M3ViT"
        ) from error
    depth = len({key.split(".")[2] for key in state if key.startswith("backbone.blocks.")})
    experts = state.get("backbone.blocks.1.mlp.experts.htoh4.weight")
    if experts is not None and experts.ndim != 3:
        raise InputRefused("the experts' weights do not have the three axes E, hidden, width")
    variant = next((name for name, shape in VARIANTS.items() if shape[0] == dim), None)
    if variant is None and heads is None:
        raise InputRefused(
            f"no variant is {dim} wide, and the file does not say how many heads it has"
        )
    usual = SIZES.get(tokens) if size is None else size
    if usual is None:
        raise InputRefused(f"the file has {tokens} tokens and does not say which input size")
    grid = grid_of(usual)
    if grid[0] * grid[1] + 1 != tokens:
        raise InputRefused(f"the file has {tokens} tokens, {usual[0]}x{usual[1]} pixels do not")
    if "backbone.blocks.1.mlp.gate.0.w_gate" in state:
        gating = "per_task"
    else:
        conditioned = any(key.startswith("backbone.gate_task_represent.") for key in state)
        gating = "task_conditioned" if conditioned else "single"
    tasks = []
    for name, kind in KINDS.items():
        classifier = state.get(f"decoders.{name}.conv_{STAGES}.weight")
        if classifier is None:
            continue
        count = classifier.shape[0]
        named = list(classes.get(name, [f"class_{i}" for i in range(count)]))
        options = {"classes": named} if kind in ("segmentation", "parts") else {}
        tasks.append({"name": name, "kind": kind, "options": options})
    if not tasks:
        raise InputRefused("the file has no decoder of a known task", hint=f"known: {list(KINDS)}")
    return {
        "tasks": tasks,
        "variant": variant or "small",
        "size": usual,
        "experts": 0 if experts is None else experts.shape[0],
        "top_k": top_k,
        "expert_ratio": 1.0 if experts is None else experts.shape[1] / dim,
        "gating": gating,
        "noise": "shazeer" if any(key.endswith(".w_noise") for key in state) else "vmoe",
        "decoder_width": state[f"decoders.{tasks[0]['name']}.conv_{STAGES}.weight"].shape[1],
        "dim": dim,
        "depth": depth,
        "heads": heads,
    }


def imagenet_encoder(network: M3ViT, payload: Any) -> None:
    """Load an encoder trained on ImageNet, in place; decoders and task embedding stay.

    Its only gate is copied to every gate (to the part that reads tokens, where a gate also reads
    the task). Its positions are resized bilinearly, the class token's kept.

    Raises:
        InputRefused: not such an encoder, or one of other sizes.
    """
    state = plain_state(payload)
    names = encoder_names(network, "")
    gates: Names = {}
    for key, ours in gate_names(network).items():
        if "gate_task_represent" in key:
            continue
        block, kind = key.split(".")[2], key.rsplit(".", 1)[1]
        gates[ours] = f"blocks.{block}.mlp.gate.{kind}"
    names.update({theirs: ours for ours, theirs in gates.items()})
    found = rename(state, names, DROPPED_OF_ENCODER)
    ours_now = network.state_dict()
    for ours, theirs in gates.items():
        target = ours_now[ours].clone()
        width = target.shape[1] - (EMBEDDING if network.backbone.embedding is not None else 0)
        if tuple(state[theirs].shape) != (width, target.shape[0]):
            raise InputRefused(f"'{theirs}' has the shape {tuple(state[theirs].shape)}")
        target[:, :width] = state[theirs].t()
        found[ours] = target
    found["backbone.position"] = _resized(
        found["backbone.position"], grid_of(network.input_spec.size)
    )
    load_weights(network, ours_now | found)


def import_encoder(
    source: Path,
    tasks: Sequence[Mapping[str, Any]],
    *,
    size: tuple[int, int],
    top_k: int = 4,
    heads: int | None = None,
    seed: int = 0,
) -> M3ViT:
    """A network around an encoder trained on ImageNet; its decoders are untrained.

    Args:
        source: file or folder of ranks.
        tasks: of the network, each with a gate of its own.
        size: height and width of its input.
        top_k: experts per token.
        heads: attention heads; those of the variant of this width by default.
        seed: of the decoders' random weights.

    Raises:
        InputRefused: unreadable, or not of this layout.
    """
    state = read_state(source)
    try:
        dim = int(state["cls_token"].shape[2])
    except (KeyError, IndexError) as error:
        raise InputRefused(
            "the file has no 'cls_token' of an encoder",
            hint="a trained network with decoders is imported without --preset",
        ) from error
    variant = next((name for name, shape in VARIANTS.items() if shape[0] == dim), None)
    if variant is None and heads is None:
        raise InputRefused(
            f"no variant is {dim} wide, and the file does not say how many heads it has"
        )
    experts = state.get("blocks.1.mlp.experts.htoh4.weight")
    arguments = {
        "tasks": list(tasks),
        "variant": variant or "small",
        "size": size,
        "experts": 0 if experts is None else experts.shape[0],
        "top_k": top_k,
        "expert_ratio": 1.0 if experts is None else experts.shape[1] / dim,
        "noise": "shazeer" if any(key.endswith(".w_noise") for key in state) else "vmoe",
        "dim": dim,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "heads": heads,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("m3vit", arguments)
    assert isinstance(network, M3ViT)
    imagenet_encoder(network, state)
    return network.eval()


def _resized(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + n, dim) positions of a square grid -> (1, 1 + rows columns, dim)."""
    side = math.isqrt(position.shape[1] - 1) if position.ndim == 3 else 0
    if position.ndim != 3 or side * side != position.shape[1] - 1:
        raise InputRefused("the positions are not those of a class token and a square grid")
    plane = position[:, 1:].float().transpose(1, 2).reshape(1, -1, side, side)
    plane = F.interpolate(plane, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([position[:, :1].float(), plane.flatten(2).transpose(1, 2)], dim=1)
