"""Rules for operators that sum over channels (see rules.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.ids import NO_CHANNELS
from edgemtl.compress.channels.labels import (
    ChannelMap,
    ChannelMaps,
    along,
    field,
    first_places,
    merge,
)
from edgemtl.compress.channels.shape_rules import Args, first_of
from edgemtl.compress.channels.spatial_rules import channelwise
from edgemtl.compress.channels.tracer import Tracer
from edgemtl.models.nested import tensors_of


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
            tracer.atoms.fix(item.core(), NO_CHANNELS)
            continue
        tracer.atoms.unite(item.core(), found[0].core())
        left = [o for o in left if o is not found[0]]
    tracer.fix(tuple(left), NO_CHANNELS)


def _pattern(item: ChannelMap, axis: int) -> Any:
    """Which places along ``axis`` hold the same labels, as numbers of first occurrence."""
    rows = np.moveaxis(item.core(), axis, 0)
    flat = rows.reshape(rows.shape[0], -1)
    _, inverse = np.unique(flat, axis=0, return_inverse=True)
    return first_places(inverse.reshape(-1))


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
    if weight.shape[by] > 1 and (not inner or any(item.origin is None for item in inner)):
        tracer.fix((*incoming, *inner), "are read by a weight that is computed")
        incoming, inner = [], []
    writes = groups == 1 or source.shape[1] != groups
    if not writes:
        if len(incoming) != 1:
            tracer.fix((*incoming, *inner, *outer), NO_CHANNELS)
            return
        outer = [_depthwise(tracer, incoming[0], fields, weight, groups, transposed)]
    else:
        if groups > 1:
            # Every group has to lose the same of its share, on both sides.
            for item in (*incoming, *(inner if transposed else outer)):
                shares = item.core().reshape(groups, -1)
                tracer.atoms.unite(shares, shares[:1])
            if not transposed:
                narrow = [field(f.labels.narrow(1, 0, weight.shape[1])) for f in incoming]
                incoming = [f for f in narrow if f is not None]
        _pair(tracer, _flat(tracer, incoming, 1), _flat(tracer, inner, by), 0)
        for item in inner:
            if item.origin is not None:
                tracer.trace.consumed[item.origin] = None
    made = []
    for item in outer:
        if item.axes != (to,):
            tracer.atoms.fix(item.core(), "meet several dimensions of a weight at once")
            continue
        writer = item.origin or tracer.trace.origin_of(item.core())
        if writes and writer is not None:  # of a computed weight: what its rows are computed from
            tracer.trace.produced[writer] = None
        channels = item.core().reshape(-1)
        if transposed and writes:
            channels = np.tile(channels, groups)
        if isinstance(bias, Tensor):
            for other in tracer.fields(bias):
                tracer.atoms.unite(channels, other.core().reshape(-1))
        made.append(ChannelMap(along(channels, result.shape, 1)))
    tracer.attach(result, tuple(made))


def _depthwise(
    tracer: Tracer,
    incoming: ChannelMap,
    fields: ChannelMaps,
    weight: Tensor,
    groups: int,
    transposed: bool,
) -> ChannelMap:
    """Every channel has kernels of its own: (C m, 1, ...), or (C, m, ...) when transposed.

    Returns:
        Labels of the C m results, laid along the axis that says where they are written.
    """
    channels = incoming.core().reshape(groups)
    tracer.note_count(channels, "groups")
    for item in fields:
        if item.axes == (0,):
            tracer.atoms.unite(channels[:, None], item.core().reshape(groups, -1))
        else:
            tracer.fix((item,), "are kernels of one channel, as many for each")
    each = weight.shape[1] if transposed else weight.shape[0] // groups
    shape = (1, groups * each) if transposed else (groups * each, 1)
    return ChannelMap(along(np.repeat(channels, each), shape, 1 if transposed else 0))


def _flat(tracer: Tracer, fields: Sequence[ChannelMap], axis: int) -> list[ChannelMap]:
    """Labels along one axis as vectors; what varies along another axis too is fixed."""
    made = []
    for item in fields:
        if item.axes == (axis,):
            made.append(ChannelMap(torch.from_numpy(item.core().reshape(-1))))
        else:
            tracer.atoms.fix(item.core(), "meet several dimensions of a weight at once")
    return made


def attention(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Fused attention over (B, heads, tokens, width): as the two products it stands for.

    Where there are fewer heads of keys than of queries, neighbouring queries share one.
    """
    target = first_of(result)
    tensors = tensors_of(values)
    query, key, value = tensors[:3]
    lead = query.shape[:-2]

    def folded(tensor: Tensor, swap: bool = False) -> tuple[Tensor, ChannelMaps]:
        repeat = 1 if tensor.dim() < 3 else query.shape[-3] // tensor.shape[-3]
        made = []
        for item in tracer.fields(tensor):
            labels = item.labels
            if repeat > 1:
                labels = labels.repeat_interleave(repeat, dim=-3)
            labels = labels.expand(*lead, *tensor.shape[-2:]).flatten(0, -3)
            made.append(field(labels.transpose(1, 2) if swap else labels))
        flat = torch.empty((lead.numel(), *tensor.shape[-2:]), device="meta")
        fields = tuple(item for item in made if item is not None)
        return (flat.transpose(1, 2) if swap else flat), fields

    scores = _product(tracer, folded(query), folded(key, swap=True))
    shape = (*lead, query.shape[-2], key.shape[-2])
    for mask in tensors[3:]:
        operands = [
            (shape, tuple(ChannelMap(f.labels.reshape(shape)) for f in scores)),
            (mask.shape, tracer.fields(mask)),
        ]
        met = merge(tracer.atoms, operands)
        scores = tuple(ChannelMap(f.labels.flatten(0, -3)) for f in met)
    left = torch.empty((lead.numel(), *shape[-2:]), device="meta")
    out = _product(tracer, (left, scores), folded(value))
    tracer.attach(target, tuple(ChannelMap(f.labels.reshape(target.shape)) for f in out))
