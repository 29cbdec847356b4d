"""Which channels of which tensors are one and the same: labels on tensors, joined as they meet.

Every position along every dimension of every weight has an atom (see ids.py). A tensor on its way
through the network carries *fields*: integer maps of its own shape that say for each element which
atom it belongs to. Where two fields meet (a residual sum, the input of a convolution and its
weight's input dimension) their atoms are united.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.ids import NO_CHANNELS, ChannelIds, Ints


@dataclass(frozen=True)
class ChannelMap:
    """Labels of one tensor's elements.

    Attributes:
        labels: int64, the tensor's shape; stride 0 along axes where the label does not vary.
        origin: (name, dimension) of the weight this is a plain rearrangement of, else None.
    """

    labels: Tensor
    origin: tuple[str, int] | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes along which the label varies."""
        sizes, strides = self.labels.shape, self.labels.stride()
        return tuple(
            axis
            for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True))
            if size > 1 and stride != 0
        )

    def core(self) -> Ints:
        """The labels with every other axis reduced to size 1."""
        labels, axes = self.labels, self.axes
        for axis in range(labels.dim()):
            if axis not in axes:
                labels = labels.narrow(axis, 0, 1)
        result: Ints = labels.numpy()
        return result


def field(labels: Tensor, origin: tuple[str, int] | None = None) -> ChannelMap | None:
    """A field in its canonical form, or None when there is nothing that varies."""
    core = labels
    for axis in range(labels.dim()):
        if core.size(axis) > 1 and core.stride(axis) == 0:
            core = core.narrow(axis, 0, 1)
    for axis in range(labels.dim()):
        first = core.narrow(axis, 0, 1)
        if core.size(axis) > 1 and bool((core == first).all()):
            core = first
    made = ChannelMap(core.contiguous().expand(labels.shape), origin)
    return made if made.axes else None


def along(labels: Ints, shape: Sequence[int], axis: int) -> Tensor:
    """A vector of labels laid along one axis of a shape."""
    view = [1] * len(shape)
    view[axis] = -1
    return torch.from_numpy(np.ascontiguousarray(labels)).view(view).expand(tuple(shape))


ChannelMaps = tuple[ChannelMap, ...]


def distinct(atoms: ChannelIds, fields: ChannelMaps) -> ChannelMaps:
    """Fields without those that say nothing more than another of them.

    Scores between the channels of a head carry its label by row and by column; once its channels
    are one unit, both say which head it is.
    """
    if len(fields) < 2:
        return fields
    kept: list[ChannelMap] = []
    for item in sorted(fields, key=lambda f: -len(f.axes)):
        if not any(_says_all(atoms, one, item) for one in kept):
            kept.append(item)
    return fields if len(kept) == len(fields) else tuple(kept)


def _says_all(atoms: ChannelIds, one: ChannelMap, other: ChannelMap) -> bool:
    """Whether ``one``, where nothing is fixed, has the classes of ``other`` everywhere."""
    if not set(other.axes) <= set(one.axes):
        return False
    ours, theirs = np.broadcast_arrays(atoms.roots(one.core()), atoms.roots(other.core()))
    return bool(ours.all()) and np.array_equal(ours, theirs)


def bind(atoms: ChannelIds, item: ChannelMap, axes: Collection[int], why: str) -> ChannelMap | None:
    """What is computed jointly over ``axes`` cannot lose part of them, only a whole slice.

    Args:
        atoms: where slices are united.
        item: labels.
        axes: those along which nothing may be lost.
        why: they may not; see :meth:`ChannelIds.fix`.

    Returns:
        The labels of slices; None when the labels vary along these axes alone, which fixes them.
    """
    touched = [axis for axis in item.axes if axis in axes]
    if not touched:
        return item
    core = item.core()
    if len(touched) == len(item.axes):
        atoms.fix(core, why)
        return None
    labels = item.labels
    for axis in touched:
        atoms.unite(core, np.take(core, [0], axis=axis))
        labels = labels.narrow(axis, 0, 1)
    return ChannelMap(labels.expand(item.labels.shape), item.origin)


def merge(atoms: ChannelIds, operands: Iterable[tuple[Sequence[int], ChannelMaps]]) -> ChannelMaps:
    """ChannelMaps of the result of an element-wise operation with broadcasting.

    An axis that one operand labels and another fills with more than one unlabelled element (a
    constant, say) cannot shrink: nothing along it can be lost.

    Args:
        atoms: where what meets is united.
        operands: shape and fields of each.
    """
    parts = [(tuple(shape), fields) for shape, fields in operands]
    shape = np.broadcast_shapes(*(part for part, _ in parts))
    spread = [
        (
            (1,) * (len(shape) - len(part)) + part,
            [made for f in fields if (made := field(f.labels.expand(shape))) is not None],
        )
        for part, fields in parts
    ]
    merged: list[ChannelMap] = []
    lost: list[ChannelMap] = []  # what is fixed goes on to tell why
    for index, (_, fields) in enumerate(spread):
        ours: list[ChannelMap] = []
        for item in fields:
            pinned = {
                axis
                for other, (sizes, others) in enumerate(spread)
                for axis in item.axes
                if other != index and sizes[axis] > 1 and not any(axis in o.axes for o in others)
            }
            bound = bind(atoms, item, pinned, NO_CHANNELS)
            (lost if bound is None else ours).append(bound or item)
        merged = _met(atoms, merged, ours)
    return (*merged, *lost)


def _met(atoms: ChannelIds, earlier: list[ChannelMap], ours: list[ChannelMap]) -> list[ChannelMap]:
    """What the fields of one more operand make of those of the operands before it."""
    merged = list(earlier)
    for item in ours:
        found = [one for one in earlier if set(one.axes) & set(item.axes)]
        rivals = [one for one in ours if set(one.axes) & set(item.axes)]
        if len(rivals) > 1 or len(found) > 1:
            # Several fields along one axis (experts and their hidden units, flattened together):
            # those belong together that change at the same places.
            alike = [o for o in found if o.axes == item.axes and _alike(o, item)]
            if alike and len(rivals) == len(found):
                atoms.unite(item.core(), alike[0].core())
                continue
        for one in found:
            _meet(atoms, one, item)
        if not any(set(item.axes) <= set(one.axes) for one in found):
            narrower = [id(one) for one in found if set(one.axes) <= set(item.axes)]
            merged = [one for one in merged if id(one) not in narrower]
            merged.append(item)
    return merged


def _meet(atoms: ChannelIds, one: ChannelMap, other: ChannelMap) -> None:
    first, second = set(one.axes), set(other.axes)
    if first > second:
        atoms.meetings.append((one.core(), other.core()))
    elif second > first:
        atoms.meetings.append((other.core(), one.core()))
    else:
        atoms.unite(one.core(), other.core())


def _alike(one: ChannelMap, other: ChannelMap) -> bool:
    """Whether two fields along the same axes change at the same places."""
    return np.array_equal(first_places(one.core()), first_places(other.core()))


def first_places(labels: Ints) -> Ints:
    """Each label replaced by the number of its first occurrence."""
    _, start, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ordered: Ints = np.argsort(np.argsort(start))[inverse.reshape(-1)]
    return ordered
