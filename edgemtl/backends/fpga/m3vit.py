"""What a M3ViT asks of the accelerator for one of its tasks: encoder, gates, experts, one decoder.

Layer normalisation, softmax, GELU and the enlargement of maps are taken, as the paper's
accelerator has them, for units of their own that keep up with the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgemtl.backends.fpga.design import design_for
from edgemtl.backends.fpga.device import FpgaOptions, MoeSchedule
from edgemtl.backends.fpga.encoder import Encoder
from edgemtl.backends.fpga.plan import Plan, make_plan
from edgemtl.backends.fpga.work import Work
from edgemtl.errors import StageFailed
from edgemtl.models.m3vit.network import M3ViT
from edgemtl.models.m3vit.vit import PATCH, Mixture

SCHEDULES: tuple[MoeSchedule, ...] = ("reordered", "cached", "resident")


def encoder_of(network: M3ViT) -> Encoder:
    """The encoder's sizes, weights as int8.

    Raises:
        StageFailed: the backbone was pruned, so that its blocks differ. Decoders may be.
    """
    backbone = network.backbone
    if _differ(network):
        raise StageFailed(
            "a M3ViT whose backbone was pruned has blocks of different sizes, which the model does "
            "not take yet",
            hint="inspect the network as it was before pruning",
        )
    arguments: Mapping[str, Any] = network.arguments
    first: Any = backbone.blocks[0]
    mixtures = backbone.mixtures()
    tokens = int(backbone.position.shape[1])
    return Encoder(
        dim=backbone.patch.out_channels,
        depth=len(backbone.blocks),
        heads=first.attn.heads,
        hidden=first.mlp.fc1.out_features,
        tokens=tokens,
        most_tokens=tokens,
        experts=mixtures[0].experts.count if mixtures else 0,
        top_k=min(int(arguments["top_k"]), mixtures[0].experts.count) if mixtures else 0,
        expert_hidden=int(mixtures[0].experts.weight_in.shape[1]) if mixtures else 0,
        patch=PATCH,
        weight_bytes=1,
    )


def _differ(network: M3ViT) -> bool:
    """Whether any block is not as wide as the others of its kind, or as it was built."""
    dim = network.backbone.patch.out_channels
    heads, dense, mixed = set(), set(), set()
    for block in network.backbone.blocks:
        part: Any = block
        heads.add((part.attn.qkv.out_features, part.attn.heads))
        if isinstance(part.mlp, Mixture):
            mixed.add(part.mlp.experts.weight_in.shape[1])
        else:
            dense.add(part.mlp.fc1.out_features)
    return len(heads) > 1 or len(dense) > 1 or len(mixed) > 1 or min(heads)[0] != 3 * dim


def task_works(network: M3ViT, task: str) -> list[Work]:
    """Layers of one task's path, in order."""
    works = encoder_of(network).works()
    decoder: Any = network.decoders[task]
    rows, columns = decoder.grid
    source = works[-1].output
    size = works[-1].output_bytes
    convolutions = [stage.conv for stage in decoder.stages] + [decoder.classifier]
    for index, conv in enumerate(convolutions):
        # Twice the size after each but the last two: that of the last stage follows the classifier.
        scale = 2 ** min(index, len(convolutions) - 2)
        positions = rows * columns * scale**2
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        name = f"{task}.decoder{index}"
        written = positions * conv.out_channels
        works.append(
            Work(
                name,
                "conv",
                positions,
                conv.in_channels,
                conv.out_channels,
                taps,
                (source,),
                name,
                (size,),
                written,
                taps * conv.in_channels * conv.out_channels + 8 * conv.out_channels,
            )
        )
        source, size = name, written * (4 if index < len(convolutions) - 2 else 1)
        works[-1] = replace(works[-1], output_bytes=size)
    return works


def schedules(works: Sequence[Work], plan: Plan, board: FpgaOptions) -> dict[str, Any]:
    """The same design under each expert schedule: latency, energy, traffic, expert memory."""
    found: dict[str, Any] = {}
    design = plan.design
    for schedule in SCHEDULES:
        other = board.model_copy(update={"moe_schedule": schedule})
        same = design_for(
            works, other, design.array, design.weight_buffer, design.activation_bytes or 0
        )
        planned = make_plan(works, same, other)
        runs = list(planned.experts.values())
        found[schedule] = {
            "latency_ms": planned.latency_ms,
            "energy_j": planned.energy_j,
            "ddr_bytes": planned.ddr_bytes,
            "expert_memory_bytes": max((run.memory_bytes for run in runs), default=0),
            "stall_cycles": sum(run.stall_cycles for run in runs),
        }
    return found
