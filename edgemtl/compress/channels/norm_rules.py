"""Rules for operators that normalise channels, or weights (see rules.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edgemtl.compress.channels.labels import ChannelMap, bind, merge
from edgemtl.compress.channels.shape_rules import Args, blocked, first_of
from edgemtl.compress.channels.spatial_rules import channelwise
from edgemtl.compress.channels.tracer import Tracer

_ONE_NORM = "share the mean and variance of one norm"


def batch_norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Batch norm: weight, bias, mean and variance belong to the channel of axis 1.

    Where mean and variance are those of the batch, they are taken over all other axes: over the
    inputs of a kernel, say, that is standardised this way (Brock et al. 2021, NFNets).
    """
    source, target = args[0], first_of(result)
    shape = [1] * source.dim()
    shape[min(1, source.dim() - 1)] = -1
    fields = tracer.fields(source)
    if any(value is True for value in args) or "with_update" in func._schema.name:
        joint = set(range(source.dim())) - {1}
        bound = [bind(tracer.atoms, item, joint, _ONE_NORM) for item in fields]
        fields = tuple(item for item in bound if item is not None)
    operands = [(tuple(source.shape), fields)]
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            viewed = tensor.reshape(shape)
            lifted = tuple(ChannelMap(f.labels.reshape(shape)) for f in tracer.fields(tensor))
            operands.append((tuple(viewed.shape), lifted))
    tracer.attach(target, merge(tracer.atoms, operands))


def group_norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Group norm: mean and variance are those of a group, so that whole groups go."""
    source, groups = args[0], args[6]
    fields = channelwise(tracer, source)
    shape = [1, source.shape[1], *[1] * (source.dim() - 2)]
    operands = [(tuple(source.shape), fields)]
    for tensor in args[1:3]:
        if isinstance(tensor, Tensor):
            lifted = tuple(ChannelMap(f.labels.reshape(shape)) for f in tracer.fields(tensor))
            operands.append((tuple(shape), lifted))
    merged = merge(tracer.atoms, operands)
    made = []
    for item in merged:
        shares = item.core().reshape(groups, -1)
        if groups == 1:
            tracer.atoms.fix(shares, _ONE_NORM)
            continue
        tracer.atoms.unite(shares, shares[:, :1])
        tracer.note_count(shares[:, 0], "num_groups")
        made.append(ChannelMap(item.labels))
    tracer.attach(first_of(result), tuple(made))


def layer_norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """Mean and variance over the normalised axes would change with their size."""
    rank = args[0].dim()
    axes = range(rank - len(args[1]), rank)
    blocked(tracer, args[0], axes, result, _ONE_NORM)


def weight_norm_rule(tracer: Tracer, func: Any, args: Args, result: Any) -> None:
    """``g v / |v|``: the slices that are normalised go with their length.

    Along the other dimensions ``v`` is masked as any weight is: what is masked adds nothing to
    the norm, as what is cut does. Nothing can be cut there that is not masked.
    """
    direction, length = args[:2]
    axis = (args[2] if len(args) > 2 else 0) % direction.dim()
    whole = length.numel() == 1
    made = []
    for item in tracer.fields(direction):
        if item.origin is not None and (whole or axis not in item.axes):
            tracer.trace.scaled.add(item.origin)
        elif not whole:
            for other in tracer.fields(length):
                tracer.atoms.unite(item.core().reshape(-1), other.core().reshape(-1))
                if item.origin is not None and other.origin is not None:
                    tracer.trace.lengths[item.origin] = other.origin
        bound = item
        if item.origin is None:
            found = bind(tracer.atoms, item, set(item.axes), "are normalised as a weight")
            if found is None:
                continue
            bound = found
        made.append(bound)
    tracer.attach(first_of(result), tuple(made))
