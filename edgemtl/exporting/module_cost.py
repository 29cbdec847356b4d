"""MACs and parameters per torch module and per task, without exporting anything."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgemtl.exporting.operations import macs_of
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.fast_path import without_fast_path
from edgemtl.models.layers import DeformableConv2d
from edgemtl.models.user_code import told_as_its_own

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
        parameters: trainable values that they use (not those of heads that only training computes).
        modules: every module that was called or whose parameters were used, in the network's order.
        tasks: task name -> cost of the network when only this task (and what it requires) is asked;
            empty where that was not counted.
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


def folded_costs(network: MultiTaskNetwork) -> NetworkCost | None:
    """Count a network after its family's own exact folds, which is what is pruned and exported.

    Returns:
        None where its family has none.
    """
    fold = getattr(network, "folded", None)
    return None if fold is None else module_costs(fold())


def module_costs(
    network: MultiTaskNetwork, tasks: Sequence[str] | None = None, alone: bool = True
) -> NetworkCost:
    """Count a network as it stands (nothing is folded); it is left as it is.

    Counted are convolutions and matrix products wherever they happen, in modules or in functions.
    The forward runs once, and if the network is small once more per task. A large one does these
    on torch's "meta" device, where shapes flow and nothing is computed; loading what torch needs
    for that takes longer than running a small one.

    Args:
        network: to count.
        tasks: to count together; all by default.
        alone: whether each task is counted alone too.

    Raises:
        UsageError: a task the network does not have.
        InputRefused: its forward raises.
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
    each = {}
    for name in selected if alone else ():
        of_task = _count(shadow, [task.name for task in network.selected([name])])
        each[name] = ModuleCost("", type(shadow).__name__, of_task[0][""], of_task[1][""])
    return NetworkCost(modules[0].macs, modules[0].parameters, modules, each)


def used_parameters(network: MultiTaskNetwork) -> frozenset[str]:
    """Names of the parameters that one pass reads, as the network stands.

    Raises:
        InputRefused: its forward raises.
    """
    used = _watched(network, [task.name for task in network.tasks]).used
    return frozenset(name for name, p in network.named_parameters() if id(p) in used)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by the modules that are at work, and notes which parameters they read.

    Torch's ``FlopCounterMode`` gives the same figures, but loads torch's compiler to do it, which
    takes longer than everything else here together.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: set[nn.Module] = set()
        self.macs = {"": 0}
        #: parameters that an operator read
        self.used: set[int] = set()
        self._network = network
        self._at_work: list[str] = []

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
        self._note(args)
        if macs := macs_of(func, args, named, result):
            for path in {"", *self._at_work}:
                self.macs[path] = self.macs.get(path, 0) + macs
        return result

    def _note(self, values: Any) -> None:
        for value in values:
            if isinstance(value, nn.Parameter):
                self.used.add(id(value))
            elif isinstance(value, list | tuple):
                self._note(value)


def _watched(network: MultiTaskNetwork, tasks: Sequence[str]) -> _Counter:
    """One pass over one picture of noise."""
    images = network.example_input().to(next(network.parameters()).device)
    counter = _Counter(network)
    with told_as_its_own(network), without_fast_path(), counter.watching(), torch.no_grad():
        network(images, tasks)
    return counter


def _count(shadow: MultiTaskNetwork, tasks: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Path -> MACs and path -> parameters of every module called, with all inside it."""
    counter = _watched(shadow, tasks)
    seen: set[nn.Parameter] = set()  # a shared parameter counts where it is met first
    own: dict[str, int] = {}
    for path, module in shadow.named_modules():
        here = [p for p in module.parameters(recurse=False) if p not in seen]
        used = [p for p in here if id(p) in counter.used]
        seen.update(used)
        if used or module in counter.called:
            own[path] = sum(parameter.numel() for parameter in used)
    parameters = dict.fromkeys(own, 0) | {"": 0}
    for path, total in own.items():
        while True:
            if path in parameters:
                parameters[path] += total
            if not path:
                break
            path = path.rpartition(".")[0]
    return counter.macs, parameters
