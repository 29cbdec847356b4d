"""Rules for operators that move, join and pool elements (see rules.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.channels.labels import ChannelMap, ChannelMaps, bind, field, merge
from edgemtl.compress.channels.tracer import Tracer
from edgemtl.models.nested import tensors_of

Args = tuple[Any, ...]


def first_of(result: Any) -> Tensor:
    """The tensor that an operator returned, or the first of several."""
    tensor = result if isinstance(result, Tensor) else result[0]
    assert isinstance(tensor, Tensor)
    return tensor


def fit(tensor: Tensor, fields: Sequence[ChannelMap]) -> ChannelMaps:
    """Stretch labels over axes along which they do not vary to the shape of a result."""
    made = []
    for item in fields:
        core = item.labels
        for axis in range(core.dim()):
            if axis not in item.axes:
                core = core.narrow(axis, 0, 1)
        made.append(ChannelMap(core.expand(tensor.shape), item.origin))
    return tuple(made)


def move(
    tracer: Tracer, run: Callable[[Tensor], Tensor], source: Tensor, result: Tensor, counts: bool
) -> None:
    """Move labels the way an operator that only rearranges elements moved its input.

    ``run`` repeats the operator on the labels; ``counts`` says whether the moved numbers are
    part of what the code wrote down.
    """
    made = []
    for item in tracer.fields(source):
        moved = field(run(item.labels), item.origin)
        if moved is None:
            continue
        made.append(moved)
        if counts:
            tracer.note_split(moved)
    tracer.attach(result, tuple(made))


def elementwise(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Sum, product and the like: labels of inputs that meet at one element are joined."""
    target = first_of(result)
    tensors = [t for t in tensors_of(values) if t.dim() > 0]
    if len(tensors) == 1 and tensors[0].shape == target.shape:
        fields = tracer.fields(tensors[0])
    else:
        fields = merge(tracer.atoms, [(t.shape, tracer.fields(t)) for t in tensors])
    tracer.attach(target, tuple(ChannelMap(f.labels) for f in fields))


def blocked(tracer: Tracer, source: Tensor, axes: Sequence[int], result: Any, why: str) -> None:
    """Something is computed jointly over these axes; the shape stays."""
    target = first_of(result)
    joint = {axis % source.dim() for axis in axes}
    made = [bind(tracer.atoms, item, joint, why) for item in tracer.fields(source)]
    tracer.attach(target, tuple(ChannelMap(item.labels) for item in made if item is not None))


def reduction(tracer: Tracer, args: Args, named: dict[str, Any], result: Any) -> None:
    """Mean, sum or maximum over axes: labels of the axes that stay."""
    source = args[0]
    axes = next((a for a in args[1:2] if isinstance(a, list | tuple | int)), named.get("dim"))
    why = "are summed up or compared with each other"
    if axes is None or axes == [] or isinstance(axes, bool):
        tracer.fix(tracer.fields(source), why)
        return
    gone = {axis % source.dim() for axis in ([axes] if isinstance(axes, int) else axes)}
    kept = []
    for item in tracer.fields(source):
        if set(item.axes) <= gone:
            for target in tensors_of([result]):
                tracer.fix_if_used(target, item, why)
        else:
            bound = bind(tracer.atoms, item, gone, why)
            kept.extend([] if bound is None else [ChannelMap(bound.labels)])
    for target in tensors_of([result]):
        if target.dim() == source.dim():
            tracer.attach(target, fit(target, kept))
        else:
            found = []
            for item in kept:
                labels = item.labels
                for axis in sorted(gone, reverse=True):
                    labels = labels.select(axis, 0)
                found.append(ChannelMap(labels))
            tracer.attach(target, tuple(found))


def ordered(tracer: Tracer, args: Args, named: dict[str, Any], result: Any) -> None:
    """``sort``, ``topk``, ``cumsum``: joint over one axis, the others are as they were."""
    source = args[0]
    numbers = [a for a in args[1:] if type(a) is int]
    axis = named.get("dim", numbers[-1] if numbers else -1) % source.dim()
    why = "are put in order, or added up one by one"
    made = [bind(tracer.atoms, item, {axis}, why) for item in tracer.fields(source)]
    kept = [ChannelMap(item.labels) for item in made if item is not None]
    for target in tensors_of([result]):
        tracer.attach(target, fit(target, kept))


def select_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """``x[:, 3]``: an axis that is counted off by hand cannot shrink."""
    source, axis, index = args[0], args[1] % args[0].dim(), args[2]
    made = []
    for item in tracer.fields(source):
        if item.axes == (axis,):
            tracer.fix_if_used(result, item, "are told apart by number")
        elif axis in item.axes:
            tracer.note_split(item, pinned=axis)
        moved = field(item.labels.select(axis, index), item.origin)
        if moved is not None:
            made.append(moved)
    tracer.attach(result, tuple(made))


def unbind_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """``x.unbind(1)``: one selection per part."""
    axis = args[1] if len(args) > 1 else 0
    for index, part in enumerate(result):
        select_rule(tracer, func, (args[0], axis, index), part)


def slice_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``x[:, 4:9]``: only whole slices of the other axes can go.

    Where there are none, the numbers may be written into the code or be held by the module: the
    labels stay, and the trial (see trial.py) tells.
    """
    source = args[0]
    axis = (args[1] if len(args) > 1 else 0) % source.dim()
    step = args[4] if len(args) > 4 else 1
    if result.shape == source.shape and step == 1:
        tracer.attach(result, tracer.fields(source))
        return
    start = (args[2] if len(args) > 2 else 0) or 0
    start = min(start + source.shape[axis] if start < 0 else start, source.shape[axis])
    end = start + result.shape[axis]
    kept = []
    for item in tracer.fields(source):
        if item.axes == (axis,) and step == 1:
            tracer.note_slice(item, axis, start, end)
            cut = field(item.labels.narrow(axis, start, end - start), item.origin)
            kept.extend([cut] if cut is not None else [])
        else:
            bound = bind(tracer.atoms, item, {axis}, "are cut out by number")
            kept.extend(fit(result, [bound]) if bound is not None else [])
    tracer.attach(result, tuple(kept))


def split_rule(tracer: Tracer, func: Any, args: Args, result: Sequence[Tensor]) -> None:
    """``chunk`` and ``split``: equal parts stay equal parts; numbers of others are looked for."""
    source = args[0]
    axis = (args[2] if len(args) > 2 else 0) % source.dim()
    sizes = [part.shape[axis] for part in result]
    equal = len(set(sizes)) == 1
    made: list[list[ChannelMap]] = [[] for _ in result]
    for item in tracer.fields(source):
        kept: ChannelMap | None = item
        if axis in item.axes and equal:
            shape = [*source.shape[:axis], len(sizes), sizes[0], *source.shape[axis + 1 :]]
            parts = field(item.labels.reshape(shape))
            if parts is not None and axis in parts.axes:
                tracer.note_split(parts, pinned=axis)
        elif item.axes == (axis,):
            for labels in torch.split(item.labels, sizes, axis):
                core = ChannelMap(labels).core().reshape(-1)
                tracer.note_count(core)
        elif axis in item.axes:
            kept = bind(tracer.atoms, item, {axis}, "are split by number")
        if kept is None:
            continue
        for index, labels in enumerate(torch.split(kept.labels, sizes, axis)):
            moved = field(labels, kept.origin)
            if moved is not None:
                made[index].append(moved)
    for part, fields in zip(result, made, strict=True):
        tracer.attach(part, tuple(fields))


def glu_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``glu``: two halves of an axis, multiplied."""
    source = args[0]
    axis = (args[1] if len(args) > 1 else -1) % source.dim()
    halves = source.chunk(2, axis)
    split_rule(tracer, func, (source, halves[0].shape[axis], axis), halves)
    elementwise(tracer, halves, result)


def shuffle_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``channel_shuffle`` as one operator: every group of channels loses alike."""
    source, groups = args[0], args[1]
    made = []
    for item in tracer.fields(source):
        labels = item.labels.reshape(source.shape[0], groups, -1, *source.shape[2:])
        if 1 in item.axes:
            parts = field(labels)
            if parts is not None and 1 in parts.axes:
                tracer.note_split(parts, pinned=1)
        moved = field(labels.transpose(1, 2).reshape(source.shape))
        if moved is not None:
            made.append(moved)
    tracer.attach(result, tuple(made))


def cat_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``torch.cat``: parts keep their labels, side by side."""
    parts = [t for t in args[0] if t.dim() == result.dim()]
    axis = (args[1] if len(args) > 1 else 0) % result.dim()
    _join(tracer, [(t, tracer.fields(t)) for t in parts], axis, result)


def stack_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``torch.stack``: parts get an axis of their own, then lie side by side."""
    axis = (args[1] if len(args) > 1 else 0) % result.dim()
    parts = []
    for tensor in args[0]:
        lifted = tuple(ChannelMap(f.labels.unsqueeze(axis)) for f in tracer.fields(tensor))
        parts.append((tensor.unsqueeze(axis), lifted))
    _join(tracer, parts, axis, result)


def _join(
    tracer: Tracer, parts: Sequence[tuple[Tensor, ChannelMaps]], axis: int, result: Tensor
) -> None:
    """Labels along the joined axis lie side by side; labels along others are shared by all."""
    beside: list[list[ChannelMap]] = []
    shared = []
    for tensor, fields in parts:
        beside.append([f for f in fields if axis in f.axes])
        across = tuple(
            ChannelMap(f.labels.narrow(axis, 0, 1)) for f in fields if axis not in f.axes
        )
        shape = list(tensor.shape)
        shape[axis] = 1
        shared.append((shape, across))
    made = list(merge(tracer.atoms, shared))
    if any(len(found) > 1 for found in beside):
        for found in beside:
            tracer.fix(tuple(found), "lie side by side with others in more than one way")
    elif any(beside):
        used = {axis, *(a for found in beside for f in found for a in f.axes)}
        labels = [
            found[0].labels if found else torch.zeros(tensor.shape, dtype=torch.int64)
            for found, (tensor, _) in zip(beside, parts, strict=True)
        ]
        for other in set(range(result.dim())) - used:
            labels = [part.narrow(other, 0, 1) for part in labels]
        joined = field(torch.cat(labels, axis))
        if joined is not None:
            if len(joined.axes) > 1:
                tracer.note_split(joined)
            made.append(joined)
    tracer.attach(result, fit(result, made))


def index_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Indexing by a tensor: positions are data, so an indexed axis cannot shrink."""
    source = args[0]
    indices = (
        args[1]
        if isinstance(args[1], list | tuple)
        else [None] * (args[1] % source.dim()) + [args[2]]
    )
    touched = {axis for axis, index in enumerate(indices) if index is not None}
    kept = []
    for item in tracer.fields(source):
        bound = bind(tracer.atoms, item, touched, "are picked by their number")
        moved = None if bound is None else field(func(bound.labels, *args[1:]), bound.origin)
        if moved is not None:
            kept.append(moved)
    tracer.attach(result, tuple(kept))


def index_put_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``x[rows] = values``: which rows is data; the axes behind them are those of the values."""
    target, indices, values = args[:3]
    first = next((i for i, index in enumerate(indices) if index is not None), 0)
    _write_rows(tracer, target, values, {*range(len(indices))}, first != 0, result)


def index_add_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``index_add``, ``index_copy``: as ``index_put`` along one axis."""
    target, axis, _, values = args[:4]
    _write_rows(tracer, target, values, {axis % target.dim()}, False, result)


def _write_rows(
    tracer: Tracer, target: Tensor, values: Tensor, rows: set[int], odd: bool, result: Tensor
) -> None:
    why = "are written to places picked by number"
    last = target.dim() - values.dim()
    operands = []
    for tensor, shift in ((target, 0), (values, last)):
        places = {axis - shift for axis in rows}
        if odd or (shift and tensor is values):
            tracer.fix(tracer.fields(tensor), why)
        made = [bind(tracer.atoms, item, places, why) for item in tracer.fields(tensor)]
        kept = [item for item in made if item is not None]
        shape = [1 if axis in places else size for axis, size in enumerate(tensor.shape)]
        narrow = []
        for item in kept:
            labels = item.labels
            for axis in places:
                labels = labels.narrow(axis, 0, 1)
            narrow.append(ChannelMap(labels))
        operands.append((shape, tuple(narrow)))
    if odd or last:
        return
    tracer.attach(result, fit(result, merge(tracer.atoms, operands)))


def gather_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``gather``: positions along one axis are data; the others are as they were."""
    source, index = args[0], args[2]
    axis = args[1] % source.dim()
    tracer.fix(tracer.fields(index), "say where to look up values")
    short = {a for a in range(source.dim()) if result.shape[a] != source.shape[a]} | {axis}
    why = "are picked by their number"
    made = [bind(tracer.atoms, item, short, why) for item in tracer.fields(source)]
    kept = [ChannelMap(item.labels) for item in made if item is not None]
    tracer.attach(result, fit(result, kept))


def embedding_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Rows of a table: their width is a channel axis, their number stays."""
    table, index = args[:2]
    tracer.fix(tracer.fields(index), "say where to look up values")
    made = []
    for item in tracer.fields(table):
        if 0 in item.axes:
            tracer.fix((item,), "are picked by their number")
        else:
            made.append(ChannelMap(item.labels[0].expand(result.shape), item.origin))
    tracer.attach(result, tuple(made))


def windows_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``Tensor.unfold``: overlapping windows along one axis, in a new last one."""
    source, axis = args[0], args[1] % args[0].dim()
    made = []
    for item in tracer.fields(source):
        bound = bind(tracer.atoms, item, {axis}, "are taken in windows")
        if bound is not None:
            made.append(ChannelMap(bound.labels.unfold(axis, *args[2:]), bound.origin))
    fields = [field(item.labels, item.origin) for item in made]
    tracer.attach(result, tuple(item for item in fields if item is not None))


def roll_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``torch.roll``: the shifted axes cannot lose channels, since the shift is written down."""
    axes = args[2] if len(args) > 2 and args[2] else range(result.dim())
    blocked(tracer, args[0], list(axes), result, "are rolled round by a number")
