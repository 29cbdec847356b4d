"""Rules for operators that move, join and pool elements (see rules.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.labels import ChannelMap, ChannelMaps, along, field, merge
from edgemtl.compress.channels.tracer import Tracer

Args = tuple[Any, ...]


def tensors_of(values: Sequence[Any]) -> list[Tensor]:
    """All tensors among the values, nested lists and tuples included, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(tensors_of(value))
    return found


def first_of(result: Any) -> Tensor:
    """The tensor that an operator returned, or the first of several."""
    tensor = result if isinstance(result, Tensor) else result[0]
    assert isinstance(tensor, Tensor)
    return tensor


def _fit(tensor: Tensor, fields: Sequence[ChannelMap]) -> ChannelMaps:
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


def channelwise(tracer: Tracer, source: Tensor) -> ChannelMaps:
    """ChannelMaps of (B, C, ...) that vary along axis 1 alone.

    Where a label varies over places too (behind a pixel shuffle), the places of a channel belong
    together.
    """
    made = []
    for item in tracer.fields(source):
        if 1 not in item.axes:
            tracer.atoms.fix(item.core())
            continue
        core = np.moveaxis(item.core(), 1, 0)
        channels = core.reshape(core.shape[0], -1)
        tracer.atoms.unite(channels, channels[:, :1])
        made.append(ChannelMap(along(channels[:, 0], source.shape, 1)))
    return tuple(made)


def spatial(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Places may change in number, channels may not; what else goes in (a grid) has no channels."""
    target, (source, *others) = first_of(result), tensors_of(values)
    for tensor in others:
        tracer.fix(tracer.fields(tensor))
    fields = channelwise(tracer, source)
    if source.dim() < 3 or target.shape[:2] != source.shape[:2]:
        tracer.fix(fields)
        return
    tracer.attach(target, _fit(target, fields))


def _bound(tracer: Tracer, item: ChannelMap, axes: set[int]) -> bool:
    """What is computed jointly over ``axes`` cannot lose part of them, only a whole slice.

    Returns:
        Whether there are slices to lose: the label varies along another axis too.
    """
    core = item.core()
    if set(item.axes) <= axes:
        tracer.atoms.fix(core)
        return False
    for axis in axes & set(item.axes):
        tracer.atoms.unite(core, np.take(core, [0], axis=axis))
    return True


def blocked(tracer: Tracer, source: Tensor, axes: Sequence[int], result: Any) -> None:
    """Something is computed jointly over these axes; the shape stays."""
    target = first_of(result)
    blocked = {axis % source.dim() for axis in axes}
    kept = [item for item in tracer.fields(source) if _bound(tracer, item, blocked)]
    tracer.attach(target, tuple(ChannelMap(item.labels) for item in kept))


def reduction(tracer: Tracer, args: Args, named: dict[str, Any], result: Any) -> None:
    """Mean, sum or maximum over axes: labels of the axes that stay."""
    source, target = args[0], first_of(result)
    axes = next((a for a in args[1:] if isinstance(a, list | tuple)), named.get("dim")) or None
    if axes is None:
        tracer.fix(tracer.fields(source))
        return
    gone = {axis % source.dim() for axis in axes}
    keepdim = target.dim() == source.dim()
    kept = []
    for item in tracer.fields(source):
        if _bound(tracer, item, gone):
            labels = item.labels
            for axis in sorted(gone, reverse=True):
                labels = labels.narrow(axis, 0, 1) if keepdim else labels.select(axis, 0)
            kept.append(ChannelMap(labels))
    tracer.attach(target, tuple(kept))


def select_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """``x[:, 3]``: an axis that is counted off by hand cannot shrink."""
    source, axis, index = args[0], args[1] % args[0].dim(), args[2]
    made = []
    for item in tracer.fields(source):
        if axis in item.axes:
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
    """``x[:, 4:9]``: positions written into the code must not move."""
    source = args[0]
    axis = (args[1] if len(args) > 1 else 0) % source.dim()
    if result.shape == source.shape and (len(args) < 5 or args[4] == 1):
        tracer.attach(result, tracer.fields(source))
        return
    kept = []
    for item in tracer.fields(source):
        if axis in item.axes:
            tracer.atoms.fix(item.core())
        else:
            kept.append(ChannelMap(item.labels, item.origin))
    tracer.attach(result, _fit(result, kept))


def split_rule(tracer: Tracer, func: Any, args: Args, result: Sequence[Tensor]) -> None:
    """``chunk`` and ``split``: equal parts stay equal parts, unequal ones must not move."""
    source = args[0]
    axis = (args[2] if len(args) > 2 else 0) % source.dim()
    sizes = [part.shape[axis] for part in result]
    equal = len(set(sizes)) == 1
    made: list[list[ChannelMap]] = [[] for _ in result]
    for item in tracer.fields(source):
        if axis in item.axes:
            if not equal:
                tracer.atoms.fix(item.core())
                continue
            shape = [*source.shape[:axis], len(sizes), sizes[0], *source.shape[axis + 1 :]]
            parts = field(item.labels.reshape(shape))
            if parts is not None and axis in parts.axes:
                tracer.note_split(parts, pinned=axis)
        for index, labels in enumerate(torch.split(item.labels, sizes, axis)):
            moved = field(labels, item.origin)
            if moved is not None:
                made[index].append(moved)
    for part, fields in zip(result, made, strict=True):
        tracer.attach(part, tuple(fields))


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
            tracer.fix(tuple(found))
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
    tracer.attach(result, _fit(result, made))


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
        if touched & set(item.axes):
            tracer.atoms.fix(item.core())
        else:
            moved = field(func(item.labels, *args[1:]), item.origin)
            if moved is not None:
                kept.append(moved)
    tracer.attach(result, tuple(kept))


def roll_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``torch.roll``: the shifted axes cannot lose channels, since the shift is written down."""
    axes = args[2] if len(args) > 2 and args[2] else range(result.dim())
    blocked(tracer, args[0], list(axes), result)
