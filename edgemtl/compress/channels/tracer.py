"""Follow labels through one real forward pass, operator by operator.

Nothing here knows a network: the pass is watched at the level of torch's operators, where every
network is made of the same few. What an operator does to channels is known for data movement,
element-wise arithmetic, convolutions, matrix products, norms and pooling; the labels that enter
any other operator become fixed, so that an unknown one costs freedom, never correctness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from edgemtl.compress.channels.labels import ChannelIds, ChannelMap, ChannelMaps, Ints, along

Origin = tuple[str, int]


@dataclass(frozen=True)
class Split:
    """A field that varies along several axes: only whole slices along one of them can go.

    Attributes:
        module: path of the module whose code did it.
        labels: one axis per axis along which the labels vary.
        free: those of the axes that may shrink.
    """

    module: str
    labels: Ints
    free: tuple[int, ...]


@dataclass(frozen=True)
class Counted:
    """An axis whose size a module may hold as a number (``groups``, ``heads``).

    Attributes:
        module: path of the module.
        labels: one label per element of the axis.
        attribute: name of the number where it is known.
    """

    module: str
    labels: Ints
    attribute: str | None = None


@dataclass
class Trace:
    """What one pass told.

    Attributes:
        atoms: the classes.
        starts: (weight, dimension) -> its atoms.
        produced: dimensions that write channels, in the order of computation.
        consumed: dimensions that are summed over: where a removed channel stops mattering.
        counted: axes whose size may be held as a number.
        tasks: task name -> names of the weights its outputs depend on.
    """

    atoms: ChannelIds
    starts: dict[Origin, Ints] = dataclass_field(default_factory=dict)
    produced: dict[Origin, None] = dataclass_field(default_factory=dict)
    consumed: dict[Origin, None] = dataclass_field(default_factory=dict)
    counted: list[Counted] = dataclass_field(default_factory=list)
    tasks: dict[str, frozenset[str]] = dataclass_field(default_factory=dict)


#: what an operator does to labels: (tracer, operator, arguments, keyword arguments, result)
ApplyRule = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any], Any], None]


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches operators run; see the module's text.

    ``network`` must not be in use elsewhere; ``apply_rule`` knows the operators (see rules.py).

    Outputs are given to :meth:`fix` and :meth:`output`, then :meth:`finish` completes the trace.
    """

    def __init__(self, network: nn.Module, apply_rule: ApplyRule) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._apply_rule = apply_rule
        self.trace = Trace(ChannelIds())
        self._splits: list[Split] = []
        self._fields: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._state = {
            id(tensor): (index, name, tensor)
            for index, (name, tensor) in enumerate(
                [*network.named_parameters(), *network.named_buffers()]
            )
        }
        self._names = [name for _, name, _ in self._state.values()]
        self._needs: dict[int, int] = {}
        self._path: list[str] = [""]
        for path, module in network.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, path))
            module.register_forward_hook(self._leave)

    def _enter(self, path: str, *_: Any) -> None:
        self._path.append(path)

    def _leave(self, *_: Any) -> None:
        self._path.pop()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would otherwise load its compiler, seconds of imports, to switch it off here."""
        return False

    # -- what tensors carry

    @property
    def atoms(self) -> ChannelIds:
        """The classes of channels."""
        return self.trace.atoms

    @property
    def module(self) -> str:
        """Path of the innermost module that runs now."""
        return self._path[-1]

    def fields(self, tensor: Tensor) -> ChannelMaps:
        """What is known of a tensor; weights are labelled along each dimension."""
        known = self._state.get(id(tensor))
        if known is None:
            found: ChannelMaps = self._fields.get(tensor, ())  # type: ignore[no-untyped-call]
            return tuple(f for f in found if not self.atoms.all_fixed(f.core()))
        name = known[1]
        made = []
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                if (name, axis) not in self.trace.starts:
                    self.trace.starts[name, axis] = self.atoms.new(size)
                labels = along(self.trace.starts[name, axis], tensor.shape, axis)
                made.append(ChannelMap(labels, (name, axis)))
        return tuple(made)

    def attach(self, tensor: Tensor, fields: ChannelMaps) -> None:
        """Say what a result carries, and note where labels vary along several axes."""
        assert all(f.labels.shape == tensor.shape for f in fields)
        self._fields[tensor] = fields

    def fix(self, fields: ChannelMaps) -> None:
        """Make channels unremovable."""
        for item in fields:
            self.atoms.fix(item.core())

    def note_split(self, item: ChannelMap, pinned: int | None = None) -> None:
        """Labels vary along ``item.axes``; the axis ``pinned`` cannot shrink."""
        free = tuple(place for place, axis in enumerate(item.axes) if axis != pinned)
        if not free:
            self.atoms.fix(item.core())
        elif len(item.axes) > 1:
            labels = item.core().reshape([item.labels.shape[axis] for axis in item.axes])
            self._splits.append(Split(self.module, labels, free))
        elif pinned is None:
            self.trace.counted.append(Counted(self.module, item.core().reshape(-1)))

    def note_count(self, labels: Ints, attribute: str) -> None:
        """The module that runs holds the number of ``labels`` under this name."""
        self.trace.counted.append(Counted(self.module, labels, attribute))

    # -- the pass

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        result = func(*args, **named)
        inputs = _tensors([*args, *named.values()])
        outputs = _tensors([result])
        self._follow(inputs, outputs)
        if any(self.fields(tensor) for tensor in inputs):
            self._apply_rule(self, func, args, named, result)
        return result

    def _follow(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Remember which weights each storage's content was computed from."""
        needs, places = 0, set()
        for tensor in inputs:
            known = self._state.get(id(tensor))
            place = tensor.untyped_storage()._cdata
            places.add(place)
            needs |= self._needs.get(place, 0)
            if known is not None:
                needs |= 1 << known[0]
        for tensor in outputs:
            place = tensor.untyped_storage()._cdata
            shared = self._needs.get(place, 0) if place in places else 0
            self._needs[place] = needs | shared

    def output(self, task: str, tensors: Sequence[Tensor]) -> None:
        """These are the outputs of a task: what they need is noted."""
        needs = 0
        for tensor in tensors:
            needs |= self._needs.get(tensor.untyped_storage()._cdata, 0)
        self.trace.tasks[task] = frozenset(
            name for index, name in enumerate(self._names) if needs >> index & 1
        )

    def finish(self) -> Trace:
        """Decide along which axis each split may shrink: the one that leaves most freedom."""
        for split in self._splits:
            roots = self.atoms.roots(split.labels)
            if not roots.any():
                continue
            freedom = {axis: self._classes_left(roots, axis) for axis in split.free}
            axis = max(split.free, key=lambda a: freedom[a])
            slices = np.moveaxis(split.labels, axis, 0).reshape(split.labels.shape[axis], -1)
            self.atoms.unite(slices, slices[:, :1])
            self.trace.counted.append(Counted(split.module, slices[:, 0]))
        return self.trace

    @staticmethod
    def _classes_left(roots: Ints, axis: int) -> int:
        """How many removable classes would be left if slices along ``axis`` were united."""
        slices = np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)
        trial = ChannelIds()
        values, inverse = np.unique(np.append(slices.reshape(-1), 0), return_inverse=True)
        trial.new(len(values) - 1)  # value 0, the fixed class, is the lowest: atom 0
        dense = inverse[:-1].reshape(slices.shape)
        trial.unite(dense, dense[:, :1])
        return len(np.setdiff1d(trial.roots(dense), [0]))


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(value))
    return found


@torch.no_grad()
def trace(
    network: nn.Module,
    images: Tensor,
    tasks: Mapping[str, Sequence[str]],
    apply_rule: ApplyRule,
) -> Trace:
    """Watch one forward pass.

    Args:
        network: a copy nobody else uses, in eval mode; called with the images, it returns tensors
            by name.
        images: what to call it with.
        tasks: task name -> names of its outputs.
        apply_rule: moves labels through an operator (see rules.py).
    """
    tracer = Tracer(network, apply_rule)
    with tracer:
        answers = network(images)
    for tensor in answers.values():  # some belong to no task
        tracer.fix(tracer.fields(tensor))
    for task, names in tasks.items():
        tracer.output(task, [answers[name] for name in names])
    return tracer.finish()
