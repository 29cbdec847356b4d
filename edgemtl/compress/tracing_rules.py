"""What each of torch's operators does to the labels of channels (see tracing.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.labels import Field, Fields, along, field, merge
from edgemtl.compress.tracing import Tracer

Args = tuple[Any, ...]
Rule = Callable[[Tracer, Any, Args, Any], None]

#: data movement that runs on labels as it runs on values
_MOVES = {
    "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "alias", "detach", "flip",
    "pixel_shuffle", "pixel_unshuffle", "repeat", "channel_shuffle",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape"}
#: the same elements in the same places (and, beside torch's tag, what acts element by element)
_ELEMENTWISE = {
    "hardswish", "hardswish_", "_prelu_kernel", "copy_", "copy", "native_dropout",
    "rrelu_with_noise",
}  # fmt: skip
_COPIES = {"clone", "contiguous", "_to_copy", "lift_fresh"}
#: each channel for itself; places and counts of the other axes may change
_SPATIAL = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d",
    "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "avg_pool1d", "max_pool1d", "upsample_nearest1d", "upsample_linear1d", "constant_pad_nd",
    "reflection_pad2d", "replication_pad2d", "mkldnn_max_pool2d",
}  # fmt: skip
_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "any", "all"}
_SOFTMAXES = {"_softmax", "_log_softmax", "_safe_softmax"}
_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
}  # fmt: skip


def apply_rule(tracer: Tracer, func: Any, args: Args, named: dict[str, Any], result: Any) -> None:
    """Give the result of one operator its labels."""
    name = func._schema.name.removeprefix("aten::")
    everything = (*args, *named.values())
    rule = _RULES.get(name)
    if rule is not None:
        rule(tracer, func, args, result)
    elif name in _VIEWS:
        _move(tracer, lambda labels: labels.reshape(args[1]), args[0], result, counts=True)
    elif name in _MOVES:
        grows = name.startswith("pixel") or name in ("repeat", "expand")
        _move(tracer, lambda labels: func(labels, *args[1:]), args[0], result, counts=grows)
    elif name in _COPIES:
        tracer.attach(result, tracer.fields(args[0]))
    elif name in _ELEMENTWISE or torch.Tag.pointwise in func.tags:
        _elementwise(tracer, everything, result)
    elif name in _SPATIAL:
        _spatial(tracer, everything, result)
    elif name in _REDUCTIONS:
        _reduction(tracer, args, named, result)
    elif name in _SOFTMAXES:
        _blocked(tracer, args[0], [args[1]], result)
    elif name in _ATTENTION:
        _attention(tracer, everything, result)
    else:
        for tensor in _tensors_of(everything):
            tracer.fix(tracer.fields(tensor))


def _tensors_of(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors_of(value))
    return found


def _first(result: Any) -> Tensor:
    tensor = result if isinstance(result, Tensor) else result[0]
    assert isinstance(tensor, Tensor)
    return tensor


def _fit(tensor: Tensor, fields: Sequence[Field]) -> Fields:
    """Stretch labels over axes along which they do not vary to the shape of a result."""
    made = []
    for item in fields:
        core = item.labels
        for axis in range(core.dim()):
            if axis not in item.axes:
                core = core.narrow(axis, 0, 1)
        made.append(Field(core.expand(tensor.shape), item.origin))
    return tuple(made)


# -- moving and combining elements


def _move(
    tracer: Tracer, run: Callable[[Tensor], Tensor], source: Tensor, result: Tensor, counts: bool
) -> None:
    made = []
    for item in tracer.fields(source):
        moved = field(run(item.labels), item.origin)
        if moved is None:
            continue
        made.append(moved)
        if counts:
            tracer.note_split(moved)
    tracer.attach(result, tuple(made))


def _elementwise(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    target = _first(result)
    tensors = [t for t in _tensors_of(values) if t.dim() > 0]
    if len(tensors) == 1 and tensors[0].shape == target.shape:
        fields = tracer.fields(tensors[0])
    else:
        fields = merge(tracer.atoms, [(t.shape, tracer.fields(t)) for t in tensors])
    tracer.attach(target, tuple(Field(f.labels) for f in fields))


def _channelwise(tracer: Tracer, source: Tensor) -> Fields:
    """Fields of (B, C, ...) that vary along axis 1 alone.

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
        made.append(Field(along(channels[:, 0], source.shape, 1)))
    return tuple(made)


def _spatial(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Places may change in number, channels may not; what else goes in (a grid) has no channels."""
    target, (source, *others) = _first(result), _tensors_of(values)
    for tensor in others:
        tracer.fix(tracer.fields(tensor))
    fields = _channelwise(tracer, source)
    if source.dim() < 3 or target.shape[:2] != source.shape[:2]:
        tracer.fix(fields)
        return
    tracer.attach(target, _fit(target, fields))


def _bound(tracer: Tracer, item: Field, axes: set[int]) -> bool:
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


def _blocked(tracer: Tracer, source: Tensor, axes: Sequence[int], result: Any) -> None:
    """Something is computed jointly over these axes; the shape stays."""
    target = _first(result)
    blocked = {axis % source.dim() for axis in axes}
    kept = [item for item in tracer.fields(source) if _bound(tracer, item, blocked)]
    tracer.attach(target, tuple(Field(item.labels) for item in kept))


def _reduction(tracer: Tracer, args: Args, named: dict[str, Any], result: Any) -> None:
    source, target = args[0], _first(result)
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
            kept.append(Field(labels))
    tracer.attach(target, tuple(kept))


def _select(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
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


def _unbind(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    axis = args[1] if len(args) > 1 else 0
    for index, part in enumerate(result):
        _select(tracer, func, (args[0], axis, index), part)


def _slice(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
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
            kept.append(Field(item.labels, item.origin))
    tracer.attach(result, _fit(result, kept))


def _split(tracer: Tracer, func: Any, args: Args, result: Sequence[Tensor]) -> None:
    """``chunk`` and ``split``: equal parts stay equal parts, unequal ones must not move."""
    source = args[0]
    axis = (args[2] if len(args) > 2 else 0) % source.dim()
    sizes = [part.shape[axis] for part in result]
    equal = len(set(sizes)) == 1
    made: list[list[Field]] = [[] for _ in result]
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


def _cat(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    parts = [t for t in args[0] if t.dim() == result.dim()]
    axis = (args[1] if len(args) > 1 else 0) % result.dim()
    _join(tracer, [(t, tracer.fields(t)) for t in parts], axis, result)


def _stack(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    axis = (args[1] if len(args) > 1 else 0) % result.dim()
    parts = []
    for tensor in args[0]:
        lifted = tuple(Field(f.labels.unsqueeze(axis)) for f in tracer.fields(tensor))
        parts.append((tensor.unsqueeze(axis), lifted))
    _join(tracer, parts, axis, result)


def _join(
    tracer: Tracer, parts: Sequence[tuple[Tensor, Fields]], axis: int, result: Tensor
) -> None:
    """Labels along the joined axis lie side by side; labels along others are shared by all."""
    beside: list[list[Field]] = []
    shared = []
    for tensor, fields in parts:
        beside.append([f for f in fields if axis in f.axes])
        across = tuple(Field(f.labels.narrow(axis, 0, 1)) for f in fields if axis not in f.axes)
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


def _index(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
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


def _roll(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    axes = args[2] if len(args) > 2 and args[2] else range(result.dim())
    _blocked(tracer, args[0], list(axes), result)


# -- arithmetic over channels


def _norm(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Batch norm: weight, bias, mean and variance belong to the channel of axis 1."""
    source, target = args[0], _first(result)
    shape = [1] * source.dim()
    shape[min(1, source.dim() - 1)] = -1
    operands = [(tuple(source.shape), tracer.fields(source))]
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            viewed = tensor.reshape(shape)
            lifted = tuple(Field(f.labels.reshape(shape)) for f in tracer.fields(tensor))
            operands.append((tuple(viewed.shape), lifted))
    tracer.attach(target, merge(tracer.atoms, operands))


def _layer_norm(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Mean and variance over the normalised axes would change with their size."""
    rank = args[0].dim()
    _blocked(tracer, args[0], range(rank - len(args[1]), rank), result)


def _pair(tracer: Tracer, first: list[Field], second: list[Field], axis: int) -> None:
    """Unite labels that meet along a summed axis.

    Where several fields share the axis (a flattened kernel, say) those belong together whose
    labels change at the same places; what finds no partner is fixed.
    """
    left = list(second)
    for item in first:
        pattern = _pattern(item, axis)
        same = [o for o in left if np.array_equal(_pattern(o, axis), pattern)]
        found = left if len(first) == len(left) == 1 else same[:1]
        if not found:
            tracer.atoms.fix(item.core())
            continue
        tracer.atoms.unite(item.core(), found[0].core())
        left = [o for o in left if o is not found[0]]
    tracer.fix(tuple(left))


def _pattern(item: Field, axis: int) -> Any:
    """Which places along ``axis`` hold the same labels, as numbers of first occurrence."""
    rows = np.moveaxis(item.core(), axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    _, start, inverse = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[inverse.reshape(-1)]


def _product(tracer: Tracer, a: tuple[Tensor, Fields], b: tuple[Tensor, Fields]) -> Fields:
    """Labels of a (B, M, K) @ b (B, K, N), in that shape."""
    (left, left_fields), (right, right_fields) = a, b
    shape = (left.shape[0], left.shape[1], left.shape[2], right.shape[2])

    def lift(fields: Fields, place: int) -> list[Field]:
        made = [field(f.labels.unsqueeze(place).expand(shape), f.origin) for f in fields]
        return [item for item in made if item is not None]

    summed = 2
    ours, theirs = lift(left_fields, 3), lift(right_fields, 1)
    here = [f for f in ours if summed in f.axes]
    there = [f for f in theirs if summed in f.axes]
    weights = [f for f in here + there if f.origin is not None]
    rest: list[list[Field]] = [
        [f for f in fields if summed not in f.axes] for fields in (ours, theirs)
    ]
    if weights:
        _pair(tracer, here, there, summed)
        for item in weights:
            assert item.origin is not None
            tracer.trace.consumed[item.origin] = None
        for item in (f for fields in rest for f in fields):
            if item.origin is not None and {1, 3} & set(item.axes):
                tracer.trace.produced[item.origin] = None
    else:
        # Activation times activation (attention): the sum's scale may depend on how many terms
        # it has, so the terms stay together and go, if at all, with all of their slice.
        for fields, kept in zip((here, there), rest, strict=True):
            for item in fields:
                core = item.core()
                tracer.atoms.unite(core, np.take(core, [0], axis=summed))
                one = field(item.labels.narrow(summed, 0, 1).expand(shape))
                if one is not None:
                    kept.append(one)
    operands: list[tuple[tuple[int, ...], Fields]] = []
    for fields, size in zip(rest, ((*shape[:2], 1), (shape[0], 1, shape[3])), strict=True):
        sides = [f.labels.narrow(summed, 0, 1).squeeze(summed) for f in fields]
        operands.append((size, tuple(Field(_narrowed(side, size)) for side in sides)))
    return merge(tracer.atoms, operands)


def _narrowed(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels reduced to ``size``, whose entries are those of the labels or 1."""
    for axis, wanted in enumerate(size):
        if wanted == 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def _bmm(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    a, b = args[-2:] if func._schema.name == "aten::bmm" else args[1:3]
    fields = _product(tracer, (a, tracer.fields(a)), (b, tracer.fields(b)))
    _add_bias(tracer, func, "aten::baddbmm", args, fields, result)


def _mm(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    a, b = args[:2] if func._schema.name == "aten::mm" else args[1:3]

    def lifted(tensor: Tensor) -> tuple[Tensor, Fields]:
        made = tuple(Field(f.labels.unsqueeze(0), f.origin) for f in tracer.fields(tensor))
        return tensor.unsqueeze(0), made

    fields = tuple(Field(f.labels.squeeze(0)) for f in _product(tracer, lifted(a), lifted(b)))
    _add_bias(tracer, func, "aten::addmm", args, fields, result)


def _add_bias(
    tracer: Tracer, func: Any, with_bias: str, args: Args, fields: Fields, result: Tensor
) -> None:
    if func._schema.name == with_bias:
        bias = args[0]
        operands = [(bias.shape, tracer.fields(bias)), (result.shape, fields)]
        fields = merge(tracer.atoms, operands)
    tracer.attach(result, tuple(Field(f.labels) for f in fields))


def _convolution(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    source, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    incoming, fields = list(_channelwise(tracer, source)), tracer.fields(weight)
    to, by = (1, 0) if transposed else (0, 1)
    inner = [f for f in fields if by in f.axes]
    outer = [f for f in fields if to in f.axes]
    if groups > 1 and transposed:
        tracer.fix((*incoming, *inner, *outer))
        return
    writes = True
    if groups > 1 and weight.shape[1] == 1:
        writes = False
        _depthwise(tracer, incoming, outer, groups)
    else:
        if groups > 1:
            # Every group has to lose the same of its share, on both sides.
            for item in (*incoming, *outer):
                shares = item.core().reshape(groups, -1)
                tracer.atoms.unite(shares, shares[:1])
            narrow = [field(f.labels.narrow(1, 0, weight.shape[1])) for f in incoming]
            incoming = [f for f in narrow if f is not None]
        _pair(tracer, _flat(tracer, incoming, 1), _flat(tracer, inner, by), 0)
        for item in inner:
            if item.origin is not None:
                tracer.trace.consumed[item.origin] = None
    made = []
    for item in outer:
        if item.axes != (to,):
            tracer.atoms.fix(item.core())
            continue
        if writes and item.origin is not None:
            tracer.trace.produced[item.origin] = None
        if isinstance(bias, Tensor):
            for other in tracer.fields(bias):
                tracer.atoms.unite(item.core().reshape(-1), other.core().reshape(-1))
        made.append(Field(along(item.core().reshape(-1), result.shape, 1)))
    tracer.attach(result, tuple(made))


def _depthwise(tracer: Tracer, incoming: list[Field], outer: list[Field], groups: int) -> None:
    if len(incoming) != 1 or len(outer) != 1:
        tracer.fix((*incoming, *outer))
        return
    channels = incoming[0].core().reshape(groups)
    tracer.atoms.unite(channels[:, None], outer[0].core().reshape(groups, -1))
    tracer.note_count(channels, "groups")


def _flat(tracer: Tracer, fields: Sequence[Field], axis: int) -> list[Field]:
    """Labels along one axis as vectors; what varies along another axis too is fixed."""
    made = []
    for item in fields:
        if item.axes == (axis,):
            made.append(Field(torch.from_numpy(item.core().reshape(-1))))
        else:
            tracer.atoms.fix(item.core())
    return made


def _attention(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Fused attention over (B, heads, tokens, width): as the two products it stands for."""
    target = _first(result)
    tensors = _tensors_of(values)
    for mask in tensors[3:]:
        tracer.fix(tracer.fields(mask))
    query, key, value = tensors[:3]

    def folded(tensor: Tensor, swap: bool = False) -> tuple[Tensor, Fields]:
        fields = [Field(f.labels.flatten(0, -3)) for f in tracer.fields(tensor)]
        flat = tensor.flatten(0, -3)
        if swap:
            flat = flat.transpose(1, 2)
            fields = [Field(f.labels.transpose(1, 2)) for f in fields]
        return flat, tuple(f for g in fields if (f := field(g.labels)) is not None)

    scores = _product(tracer, folded(query), folded(key, swap=True))
    left = torch.empty((query.shape[:-2].numel(), query.shape[-2], key.shape[-2]), device="meta")
    out = _product(tracer, (left, scores), folded(value))
    tracer.attach(target, tuple(Field(f.labels.reshape(target.shape)) for f in out))


_RULES: dict[str, Rule] = {
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "cat": _cat,
    "stack": _stack,
    "index": _index,
    "index_select": _index,
    "roll": _roll,
    "native_batch_norm": _norm,
    "_native_batch_norm_legit_no_training": _norm,
    "native_layer_norm": _layer_norm,
    "mm": _mm,
    "addmm": _mm,
    "bmm": _bmm,
    "baddbmm": _bmm,
    "convolution": _convolution,
}
