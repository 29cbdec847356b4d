"""MACs and parameters per torch module and per task, without exporting anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d


@dataclass(frozen=True)
class ModuleCost:
    """A module with all that is inside it.

    Attributes:
        module: path; empty for the whole network.
        kind: class name.
        macs: multiply-accumulates for one picture.
        parameters: trainable values.
    """

    module: str
    kind: str
    macs: int
    parameters: int


@dataclass(frozen=True)
class NetworkCost:
    """A network at its input size, for one picture.

    Attributes:
        macs: multiply-accumulates for all requested tasks together.
        parameters: trainable values of the modules that they use.
        modules: every module that was called, in the network's order.
        tasks: task name -> cost of the network when only this task (and what it requires) is asked.
    """

    macs: int
    parameters: int
    modules: tuple[ModuleCost, ...]
    tasks: Mapping[str, ModuleCost]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "macs": self.macs,
            "parameters": self.parameters,
            "modules": [asdict(module) for module in self.modules],
            "tasks": {
                name: {"macs": cost.macs, "parameters": cost.parameters}
                for name, cost in self.tasks.items()
            },
        }


def module_costs(network: MultiTaskNetwork, tasks: Sequence[str] | None = None) -> NetworkCost:
    """Count a network as it stands (nothing is folded); it is left as it is.

    The forward runs on torch's "meta" device, where shapes flow and nothing is computed. Counted
    are convolutions and matrix products wherever they happen, in modules or in functions.

    Raises:
        UsageError: a task the network does not have.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    for module in shadow.modules():
        if isinstance(module, DeformableConv2d):
            module.lowering = "native"  # one operator instead of some thirty
    selected = [task.name for task in network.selected(tasks)]
    macs, parameters = _count(shadow, selected)
    modules = tuple(
        ModuleCost(path, type(module).__name__, macs.get(path, 0), parameters[path])
        for path, module in shadow.named_modules()
        if path in parameters
    )
    alone = {}
    for name in selected:
        of_task = _count(shadow, [task.name for task in network.selected([name])])
        alone[name] = ModuleCost("", type(shadow).__name__, of_task[0][""], of_task[1][""])
    return NetworkCost(modules[0].macs, modules[0].parameters, modules, alone)


def _deformable_operations(
    x: Sequence[int], offset: Any, mask: Any, weight: Sequence[int], *rest: Any, **named: Any
) -> int:
    """Operations of a deformable convolution: those of the ordinary one of its size."""
    return 2 * math.prod(weight) * x[0] * x[2] * x[3]


def _count(shadow: MultiTaskNetwork, tasks: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Path -> MACs and path -> parameters of every module called, with all inside it."""
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in shadow.modules()
    ]
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.edgemtl.deform_conv2d: _deformable_operations},
    )
    try:
        with counter, torch.no_grad():
            shadow(shadow.example_input().to("meta"), tasks)
    finally:
        for handle in handles:
            handle.remove()
    root = type(shadow).__name__
    macs = {  # the counter counts a product and a sum as two operations
        path.removeprefix(root).lstrip("."): sum(by_operator.values()) // 2
        for path, by_operator in counter.get_flop_counts().items()
    }
    macs.setdefault("", 0)
    parameters: dict[str, int] = {}
    seen: set[nn.Parameter] = set()  # a shared parameter counts where it is met first
    for path, module in shadow.named_modules():
        if module not in called:
            continue
        parameters[path] = 0
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        total = sum(parameter.numel() for parameter in own)
        while True:
            if path in parameters:
                parameters[path] += total
            if not path:
                break
            path = path.rpartition(".")[0]
    return macs, parameters
