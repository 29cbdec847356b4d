"""Rules for operators that sum over channels or normalise them (see rules.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.labels import ChannelMap, ChannelMaps, along, field, merge
from edgemtl.compress.channels.shape_rules import Args, blocked, channelwise, first_of, tensors_of
from edgemtl.compress.channels.tracer import Tracer


def norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Batch norm: weight, bias, mean and variance belong to the channel of axis 1."""
    source, target = args[0], first_of(result)
    shape = [1] * source.dim()
    shape[min(1, source.dim() - 1)] = -1
    operands = [(tuple(source.shape), tracer.fields(source))]
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            viewed = tensor.reshape(shape)
            lifted = tuple(ChannelMap(f.labels.reshape(shape)) for f in tracer.fields(tensor))
            operands.append((tuple(viewed.shape), lifted))
    tracer.attach(target, merge(tracer.atoms, operands))


def layer_norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Mean and variance over the normalised axes would change with their size."""
    rank = args[0].dim()
    blocked(tracer, args[0], range(rank - len(args[1]), rank), result)


def _pair(tracer: Tracer, first: list[ChannelMap], second: list[ChannelMap], axis: int) -> None:
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


def _pattern(item: ChannelMap, axis: int) -> Any:
    """Which places along ``axis`` hold the same labels, as numbers of first occurrence."""
    rows = np.moveaxis(item.core(), axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    _, start, inverse = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[inverse.reshape(-1)]


def _product(
    tracer: Tracer, a: tuple[Tensor, ChannelMaps], b: tuple[Tensor, ChannelMaps]
) -> ChannelMaps:
    """Labels of a (B, M, K) @ b (B, K, N), in that shape."""
    (left, left_fields), (right, right_fields) = a, b
    shape = (left.shape[0], left.shape[1], left.shape[2], right.shape[2])

    def lift(fields: ChannelMaps, place: int) -> list[ChannelMap]:
        made = [field(f.labels.unsqueeze(place).expand(shape), f.origin) for f in fields]
        return [item for item in made if item is not None]

    summed = 2
    ours, theirs = lift(left_fields, 3), lift(right_fields, 1)
    here = [f for f in ours if summed in f.axes]
    there = [f for f in theirs if summed in f.axes]
    weights = [f for f in here + there if f.origin is not None]
    rest: list[list[ChannelMap]] = [
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
    operands: list[tuple[tuple[int, ...], ChannelMaps]] = []
    for fields, size in zip(rest, ((*shape[:2], 1), (shape[0], 1, shape[3])), strict=True):
        sides = [f.labels.narrow(summed, 0, 1).squeeze(summed) for f in fields]
        operands.append((size, tuple(ChannelMap(_narrowed(side, size)) for side in sides)))
    return merge(tracer.atoms, operands)


def _narrowed(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels reduced to ``size``, whose entries are those of the labels or 1."""
    for axis, wanted in enumerate(size):
        if wanted == 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def bmm_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Batched matrix products, with or without a bias."""
    a, b = args[-2:] if func._schema.name == "aten::bmm" else args[1:3]
    fields = _product(tracer, (a, tracer.fields(a)), (b, tracer.fields(b)))
    _add_bias(tracer, func, "aten::baddbmm", args, fields, result)


def mm_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Matrix products, with or without a bias."""
    a, b = args[:2] if func._schema.name == "aten::mm" else args[1:3]

    def lifted(tensor: Tensor) -> tuple[Tensor, ChannelMaps]:
        made = tuple(ChannelMap(f.labels.unsqueeze(0), f.origin) for f in tracer.fields(tensor))
        return tensor.unsqueeze(0), made

    fields = tuple(ChannelMap(f.labels.squeeze(0)) for f in _product(tracer, lifted(a), lifted(b)))
    _add_bias(tracer, func, "aten::addmm", args, fields, result)


def _add_bias(
    tracer: Tracer, func: Any, with_bias: str, args: Args, fields: ChannelMaps, result: Tensor
) -> None:
    if func._schema.name == with_bias:
        bias = args[0]
        operands = [(bias.shape, tracer.fields(bias)), (result.shape, fields)]
        fields = merge(tracer.atoms, operands)
    tracer.attach(result, tuple(ChannelMap(f.labels) for f in fields))


def convolution_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Convolutions of all kinds: outputs follow the weight, inputs meet it, groups tie both."""
    source, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    incoming, fields = list(channelwise(tracer, source)), tracer.fields(weight)
    to, by = (1, 0) if transposed else (0, 1)
    inner = [f for f in fields if by in f.axes]
    outer = [f for f in fields if to in f.axes]
    computed = any(item.origin is None for item in inner)  # no weight of ours to mask
    if computed or (groups > 1 and transposed):
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
        made.append(ChannelMap(along(item.core().reshape(-1), result.shape, 1)))
    tracer.attach(result, tuple(made))


def _depthwise(
    tracer: Tracer, incoming: list[ChannelMap], outer: list[ChannelMap], groups: int
) -> None:
    if len(incoming) != 1 or len(outer) != 1:
        tracer.fix((*incoming, *outer))
        return
    channels = incoming[0].core().reshape(groups)
    tracer.atoms.unite(channels[:, None], outer[0].core().reshape(groups, -1))
    tracer.note_count(channels, "groups")


def _flat(tracer: Tracer, fields: Sequence[ChannelMap], axis: int) -> list[ChannelMap]:
    """Labels along one axis as vectors; what varies along another axis too is fixed."""
    made = []
    for item in fields:
        if item.axes == (axis,):
            made.append(ChannelMap(torch.from_numpy(item.core().reshape(-1))))
        else:
            tracer.atoms.fix(item.core())
    return made


def attention(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Fused attention over (B, heads, tokens, width): as the two products it stands for."""
    target = first_of(result)
    tensors = tensors_of(values)
    for mask in tensors[3:]:
        tracer.fix(tracer.fields(mask))
    query, key, value = tensors[:3]

    def folded(tensor: Tensor, swap: bool = False) -> tuple[Tensor, ChannelMaps]:
        fields = [ChannelMap(f.labels.flatten(0, -3)) for f in tracer.fields(tensor)]
        flat = tensor.flatten(0, -3)
        if swap:
            flat = flat.transpose(1, 2)
            fields = [ChannelMap(f.labels.transpose(1, 2)) for f in fields]
        return flat, tuple(f for g in fields if (f := field(g.labels)) is not None)

    scores = _product(tracer, folded(query), folded(key, swap=True))
    left = torch.empty((query.shape[:-2].numel(), query.shape[-2], key.shape[-2]), device="meta")
    out = _product(tracer, (left, scores), folded(value))
    tracer.attach(target, tuple(ChannelMap(f.labels.reshape(target.shape)) for f in out))
