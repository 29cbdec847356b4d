"""Small M3ViT networks whose gates spread tokens widely."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgemtl.models.m3vit.network import M3ViT

TASKS: list[dict[str, Any]] = [
    {"name": "rooms", "kind": "segmentation", "options": {"classes": ["floor", "wall", "rest"]}},
    {"name": "facing", "kind": "normals"},
    {"name": "distance", "kind": "depth"},
]


def tiny(seed: int = 0, **changes: Any) -> M3ViT:
    """Three tasks, four blocks, 32 x 64 pixels (9 tokens), 6 experts of which 2 are used."""
    arguments: dict[str, Any] = {
        "tasks": TASKS,
        "variant": "tiny",
        "dim": 24,
        "heads": 3,
        "depth": 4,
        "experts": 6,
        "top_k": 2,
        "size": (32, 64),
        "decoder_width": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = M3ViT(**{**arguments, **changes})
        for name, parameter in network.named_parameters():
            # the usual start is so small that experts and tasks would hardly differ
            if ".gates." in name or ".experts." in name or name.startswith("backbone.embedding"):
                nn.init.normal_(parameter, std=0.5)
    return network.eval()
