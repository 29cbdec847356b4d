"""Follow labels through one real forward pass, operator by operator.

Nothing here knows a network: the pass is watched at the level of torch's operators, where every
network is made of the same few. What an operator does to channels is known for data movement,
element-wise arithmetic, convolutions, matrix products, norms and pooling; the labels that enter
any other operator become fixed, so that an unknown one costs freedom, never correctness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from edgemtl.compress.channels.ids import ChannelIds, Ints
from edgemtl.compress.channels.labels import ChannelMap, ChannelMaps, along, distinct
from edgemtl.compress.channels.plain import plain_operators
from edgemtl.compress.channels.trace_data import Counted, Split, Trace
from edgemtl.compress.channels.where import line_of_user
from edgemtl.exporting.operations import macs_of
from edgemtl.models.nested import tensors_of

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
        self.trace.atoms.place = self._place
        self.trace.atoms.before = self._before
        self._inputs: Sequence[Tensor] = ()
        #: what becomes fixed once a result is used
        self._pending: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._splits: list[Split] = []
        #: what is cut out of one field along an axis by number: (labels, axis) -> (start, end)
        self._slices: dict[tuple[int, int], tuple[ChannelMap, set[tuple[int, int]]]] = {}
        self._fields: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._state = {
            id(tensor): (index, name, tensor)
            for index, (name, tensor) in enumerate(
                [*network.named_parameters(), *network.named_buffers()]
            )
        }
        self._names = [name for _, name, _ in self._state.values()]
        self._held = {t.untyped_storage()._cdata: name for _, name, t in self._state.values()}
        #: whether work is counted
        self.counting = True
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

    def _place(self) -> str:
        """Where in the user's code we are: the module that runs, and the line."""
        if len(self._path) < 2:
            return ""
        line = line_of_user()
        return f"{self.module} at {line}" if self.module and line else self.module or line

    def _before(self) -> str:
        """Why an input of the operator that runs lost its channels earlier, if one did."""
        for tensor in self._inputs:
            found: ChannelMaps = self._fields.get(tensor, ())  # type: ignore[no-untyped-call]
            for item in found:
                core = item.core().reshape(-1)
                if self.atoms.all_fixed(core) and (reason := self.atoms.why(int(core[0]))):
                    return reason
        return ""

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
        self._fields[tensor] = distinct(self.atoms, fields)

    def fix(self, fields: ChannelMaps, why: str) -> None:
        """Make channels unremovable; ``why`` as in :meth:`ChannelIds.fix`."""
        for item in fields:
            self.atoms.fix(item.core(), why)

    def fix_if_used(self, result: Tensor, item: ChannelMap, why: str) -> None:
        """Make channels unremovable as soon as anything reads ``result``.

        An attention layer, for instance, averages its weights over heads, and few ask for them; and
        ``weight[0].numel()`` reads a size alone.
        """
        waiting: list[tuple[ChannelMap, str]] = self._pending.get(  # type: ignore[no-untyped-call]
            result, []
        )
        self._pending[result] = [*waiting, (item, why)]

    def used(self, tensors: Sequence[Tensor]) -> None:
        """These are read: what waited for that becomes fixed."""
        for tensor in tensors:
            waiting: list[tuple[ChannelMap, str]] = self._pending.pop(  # type: ignore[no-untyped-call]
                tensor, []
            )
            for item, why in waiting:
                self.atoms.fix(item.core(), why)

    def note_split(self, item: ChannelMap, pinned: int | None = None) -> None:
        """Labels vary along ``item.axes``; the axis ``pinned`` cannot shrink."""
        free = tuple(place for place, axis in enumerate(item.axes) if axis != pinned)
        if not free:
            self.atoms.fix(item.core(), "are told apart by number")
        elif len(item.axes) > 1:
            labels = item.core().reshape([item.labels.shape[axis] for axis in item.axes])
            split = Split(self.module, labels, free)
            if len(free) == 1:  # nothing to decide
                self._settle(split, free[0])
            else:
                self._splits.append(split)
        elif pinned is None:
            self.note_count(item.core().reshape(-1))

    def note_slice(self, item: ChannelMap, axis: int, start: int, end: int) -> None:
        """``start`` to ``end`` of ``axis``, the only one along which labels vary, is cut out."""
        _, parts = self._slices.setdefault((id(item.labels), axis), (item, set()))
        parts.add((start, end))
        labels = item.core().reshape(-1)
        for first, last in {(0, start), (0, end), (start, end)}:
            if last - first > 0:
                self.note_count(labels[first:last])

    def note_count(self, labels: Ints, attribute: str | None = None) -> None:
        """The module that runs may hold the number of ``labels``, under this name if given."""
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
        inputs = tensors_of([*args, *named.values()])
        outputs = tensors_of([result])
        self._follow(inputs, outputs)
        self._inputs = inputs
        self.used(inputs)
        if self.counting:
            self._count(func, args, named, result)
        if _made_of_one_value(func):
            for tensor in outputs:
                self.attach(tensor, self._fresh(tensor))
        elif any(self.fields(tensor) for tensor in inputs):
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
        self.used(tensors)
        needs = 0
        for tensor in tensors:
            needs |= self._needs.get(tensor.untyped_storage()._cdata, 0)
        self.trace.tasks[task] = frozenset(
            name for index, name in enumerate(self._names) if needs >> index & 1
        )

    def _fresh(self, tensor: Tensor) -> ChannelMaps:
        """Labels of a tensor that is the same everywhere: what it meets says how wide it is."""
        made = []
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                made.append(ChannelMap(along(self.atoms.new(size), tensor.shape, axis)))
                self.note_count(made[-1].core().reshape(-1))
        return tuple(made)

    def _count(self, func: Any, args: Any, named: dict[str, Any], result: Any) -> None:
        """Add an operator's work to the weight it reads."""
        work = macs_of(func, args, named, result)
        if not work:
            return
        inputs = tensors_of([*args, *named.values()])
        name = ""
        for tensor in sorted(inputs, key=Tensor.dim, reverse=True):  # the bias comes last
            name = name or self._held.get(tensor.untyped_storage()._cdata, "")
        for tensor in inputs:
            for item in () if name else self.fields(tensor):
                name = name or (item.origin[0] if item.origin else "")
        if not name and func._schema.name == "aten::convolution":
            computed = [
                origin
                for item in self.fields(args[1])
                if (origin := self.trace.origin_of(item.core()))
            ]
            name = computed[0][0] if computed else ""
        macs = self.trace.macs
        macs[name] = macs.get(name, 0.0) + work
        if not name:
            origins = [
                self.trace.origin_of(item.core())
                for tensor in inputs
                for item in self.fields(tensor)
            ]
            first = next((o for o in origins if o is not None and o[1] == 0), None)
            if first is not None:
                self.trace.products[first[0]] = self.trace.products.get(first[0], 0.0) + work

    def finish(self) -> Trace:
        """Decide what was left open: in each case what leaves most freedom."""
        atoms = self.atoms
        for item, parts in self._slices.values():
            self._tie_slices(item, sorted(parts))
        for wide, narrow in atoms.meetings:
            _meet(atoms, wide, narrow)
        for split in self._splits:
            if atoms.roots(split.labels).any():
                freedom = {
                    axis: atoms.classes_if(*_slices(split.labels, axis)) for axis in split.free
                }
                self._settle(split, max(split.free, key=lambda a: freedom[a]))
        for origin, length in self.trace.lengths.items():
            if origin in self.trace.consumed:
                del self.trace.consumed[origin]
                self.trace.consumed[length] = None
        for origin in self.trace.scaled:
            if origin not in self.trace.consumed or origin in self.trace.produced:
                atoms.fix(self.trace.starts[origin], "a weight is normalised over them")
        return self.trace

    def _settle(self, split: Split, axis: int) -> None:
        """Only whole slices along ``axis`` can go."""
        whole, first = _slices(split.labels, axis)
        self.atoms.unite(whole, first)
        self.trace.counted.append(Counted(split.module, whole[:, 0]))

    def _tie_slices(self, item: ChannelMap, parts: Sequence[tuple[int, int]]) -> None:
        """Equal parts of the whole stay equal parts, as those of ``chunk`` do."""
        labels = item.core().reshape(-1)
        size = parts[0][1] - parts[0][0]
        if len(labels) % size == 0 and len(labels) > size:
            every = [(start, start + size) for start in range(0, len(labels), size)]
            if list(parts) == every:
                equal = labels.reshape(-1, size)
                self.atoms.unite(equal, equal[:1])


def _slices(labels: Ints, axis: int) -> tuple[Ints, Ints]:
    """(size, rest) whole slices along an axis, and their first elements."""
    whole = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    return whole, whole[:, :1]


def _meet(atoms: ChannelIds, wide: Ints, narrow: Ints) -> None:
    """Two operands of which one varies along fewer axes, (heads, width) and (width,) say.

    United, whole slices along the shared axes go from both. Where that leaves nothing (rotary
    tables, whose width every head has), the narrow one stays and slices along the others may go.
    """
    if atoms.classes_if(wide, narrow) < 2:
        shared = [axis for axis, size in enumerate(narrow.shape) if size > 1]
        first = wide
        for axis in shared:
            first = np.take(first, [0], axis=axis)
        if atoms.classes_if(wide, first) > 1:
            atoms.fix(narrow, "every slice of what they meet has as many")
            atoms.unite(wide, first)
            return
    atoms.unite(wide, narrow)


#: a tensor of one value everywhere, or one yet to be filled
_UNIFORM = {
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
    "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip


def _made_of_one_value(func: Any) -> bool:
    return func._schema.name.removeprefix("aten::") in _UNIFORM


def trace(
    network: nn.Module,
    images: Tensor,
    tasks: Mapping[str, Sequence[str]],
    apply_rule: ApplyRule,
    *,
    training: bool = False,
) -> Trace:
    """Watch one forward pass.

    Args:
        network: a copy nobody else uses; called with the images, it returns tensors by name.
        images: what to call it with.
        tasks: task name -> names of its outputs.
        apply_rule: moves labels through an operator (see rules.py).
        training: watch a pass in training mode too; what only training computes then shrinks, or
            stays, with what it reads.
    """
    tracer = Tracer(network, apply_rule)
    with torch.no_grad(), plain_operators(network), tracer:
        answers = network.eval()(images)
    named = {name: task for task, names in tasks.items() for name in names}
    tracer.used(list(answers.values()))  # some belong to no task
    for name, tensor in answers.items():
        owner = f" of task '{named[name]}'" if name in named else ""
        why = f"their number is that of output '{name}'{owner}"
        tracer.fix(tracer.fields(tensor), why)
    for task, names in tasks.items():
        tracer.output(task, [answers[name] for name in names])
    if training:
        tracer.counting = False
        with torch.no_grad(), plain_operators(network), tracer:
            extra = network.train()(images.expand(2, *images.shape[1:]).contiguous())
        values = extra.values() if isinstance(extra, Mapping) else [extra]
        for tensor in tensors_of(list(values)):
            tracer.used([tensor])
            tracer.fix(tracer.fields(tensor), "are an output in training")
    return tracer.finish()
