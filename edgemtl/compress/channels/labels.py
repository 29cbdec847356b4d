"""Which channels of which tensors are one and the same: labels on tensors, joined as they meet.

Every position along every dimension of every weight gets an *atom*, a number. A tensor on its way
through the network carries *fields*: integer maps of its own shape that say for each element which
atom it belongs to. Where two fields meet (a residual sum, the input of a convolution and its
weight's input dimension) their atoms are united. Atom 0 stands for what can never be removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class ChannelIds:
    """Union-find over atoms; the class of atom 0 is fixed."""

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, dtype=np.int64)

    def new(self, count: int) -> Ints:
        """``count`` fresh atoms."""
        start = len(self._parent)
        fresh = np.arange(start, start + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, fresh])
        return fresh

    def roots(self, labels: Ints) -> Ints:
        """The representative of each label's class (0 for fixed ones)."""
        current = self._parent[labels]
        while True:
            above = self._parent[current]
            if np.array_equal(above, current):
                return current
            current = above

    def unite(self, first: Ints, second: Ints) -> None:
        """Join classes element by element; the arrays broadcast."""
        one, other = np.broadcast_arrays(self.roots(first), self.roots(second))
        differ = one != other
        count = len(self._parent)
        for code in np.unique(one[differ] * count + other[differ]).tolist():
            low, high = sorted((self._root(code // count), self._root(code % count)))
            self._parent[high] = low  # the lower one, so that atom 0 stays a root

    def _root(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = int(parent[atom])
        return atom

    def fix(self, labels: Ints) -> None:
        """Make these atoms, and all they are joined with, unremovable."""
        self._parent[self.roots(self._distinct(labels))] = 0

    def all_fixed(self, labels: Ints) -> bool:
        """Whether none of these can be removed."""
        return not self.roots(self._distinct(labels)).any()

    def _distinct(self, labels: Ints) -> Ints:
        """The atoms in a map, which may be as large as an output, without sorting it."""
        present = np.zeros(len(self._parent), dtype=np.bool_)
        present[labels] = True
        return np.flatnonzero(present)


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


def merge(atoms: ChannelIds, operands: Iterable[tuple[Sequence[int], ChannelMaps]]) -> ChannelMaps:
    """ChannelMaps of the result of an element-wise operation with broadcasting.

    An axis that one operand labels and another fills with more than one unlabelled element (a
    constant, say) cannot shrink, so those labels become fixed.

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
    for index, (_, fields) in enumerate(spread):
        for item in fields:
            for other, (sizes, others) in enumerate(spread):
                if other != index and any(
                    sizes[axis] > 1 and not any(axis in o.axes for o in others)
                    for axis in item.axes
                ):
                    atoms.fix(item.core())
    merged: list[ChannelMap] = []
    for _, fields in spread:
        for item in fields:
            found = [one for one in merged if set(one.axes) & set(item.axes)]
            for one in found:
                atoms.unite(item.core(), one.core())
            wider = [o for o in found if set(item.axes) <= set(o.axes)]
            if not wider:
                merged = [o for o in merged if not set(o.axes) <= set(item.axes)] + [item]
    return tuple(item for item in merged if not atoms.all_fixed(item.core()))
