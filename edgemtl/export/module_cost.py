"""MACs and parameters per torch module and per task, without exporting anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d

#: beyond it computing takes longer than loading what does without
LARGE_MACS = 5_000_000_000


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

    Counted are convolutions and matrix products wherever they happen, in modules or in functions.
    The forward runs once, and if the network is small once more per task. A large one does these
    on torch's "meta" device, where shapes flow and nothing is computed; loading what torch needs
    for that takes longer than running a small one.

    Raises:
        UsageError: a task the network does not have.
    """
    shadow = copy.deepcopy(network).eval()
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
    if modules[0].macs > LARGE_MACS:
        shadow.to("meta")
    alone = {}
    for name in selected:
        of_task = _count(shadow, [task.name for task in network.selected([name])])
        alone[name] = ModuleCost("", type(shadow).__name__, of_task[0][""], of_task[1][""])
    return NetworkCost(modules[0].macs, modules[0].parameters, modules, alone)


def _deformable_operations(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *rest: Any, **named: Any
) -> int:
    """Operations of a deformable convolution: those of the ordinary one of its size."""
    return 2 * weight.numel() * x.shape[0] * x.shape[2] * x.shape[3]


def _attention_operations(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Operations of softmax(Q K^T) V with (B, heads, N, width) each."""
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return 2 * scores * (query.shape[3] + value.shape[3])


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by the modules that are at work, with torch's own table of formulas.

    Torch's ``FlopCounterMode`` gives the same figures, but loads torch's compiler to do it, which
    takes longer than everything else here together.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: set[nn.Module] = set()
        self.operations = {"": 0}
        self._network = network
        self._at_work: list[str] = []
        self._formulas = flop_registry | {
            torch.ops.edgemtl.deform_conv2d: _deformable_operations,
            # torch's table has attention for graphics processors only
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while modules of the network are called."""
        handles = []
        for path, module in self._network.named_modules():
            enter, leave = partial(self._enter, path), self._leave
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, module: nn.Module, _: Any) -> None:
        self.called.add(module)
        self._at_work.append(path)

    def _leave(self, *_: Any) -> None:
        self._at_work.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it for every module that is at work."""
        named = dict(kwargs or {})
        result = func(*args, **named)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            operations = int(formula(*args, **named, out_val=result))
            for path in {"", *self._at_work}:
                self.operations[path] = self.operations.get(path, 0) + operations
        return result


def _count(shadow: MultiTaskNetwork, tasks: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Path -> MACs and path -> parameters of every module called, with all inside it."""
    images = shadow.example_input().to(next(shadow.parameters()).device)
    counter = _Counter(shadow)
    with counter.watching(), torch.no_grad():
        shadow(images, tasks)
    called = counter.called
    # A product and a sum count as two operations.
    macs = {path: operations // 2 for path, operations in counter.operations.items()}
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
