"""Which parameters a stage trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgemtl.models.base import MultiTaskNetwork

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def norms_and_biases(network: nn.Module) -> list[nn.Parameter]:
    """Scales and shifts of norms, and biases of all layers."""
    return [
        parameter
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name == "bias"
    ]


def own_parameters(network: MultiTaskNetwork, name: str) -> list[nn.Parameter]:
    """What nothing but this task's answers depends on."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    images = network.example_input(1)

    def reached(names: Sequence[str]) -> set[int]:
        outputs = network(images, list(names))
        wanted = [network.task(one).outputs for one in names]
        total = torch.stack([outputs[o].float().sum() for outs in wanted for o in outs]).sum()
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return {place for place, gradient in enumerate(found) if gradient is not None}

    if not parameters:
        return []
    network.eval()
    mine = reached([name])
    for task in network.tasks:
        if task.name != name:
            mine -= reached([task.name])
    return [parameters[place] for place in sorted(mine)]
