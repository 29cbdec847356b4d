"""Classes of channels that go together: a union-find that remembers why a class cannot go at all.

Every position along every dimension of every weight gets an *atom*, a number; atoms that are one
and the same channel are united. Atom 0 stands for what can never be removed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

#: why channels stay that meet what has none; where that once had some, theirs is the reason
NO_CHANNELS = "meet values that have no channels of their own"


class ChannelIds:
    """Union-find over atoms; the class of atom 0 is fixed.

    Attributes:
        place: says where in the user's code we are; asked when something becomes fixed.
        before: says why what is computed with lost its channels earlier; empty when it did not.
        meetings: pairs of label arrays that broadcast, the first varying along more axes than the
            second: to be united, or kept apart, when all else is known (see tracer.py).
    """

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, dtype=np.int64)
        #: root at the time it was fixed -> why; it stays the last one before atom 0
        self._why: dict[int, str] = {}
        self.place: Callable[[], str] = str
        self.before: Callable[[], str] = str
        self.meetings: list[tuple[Ints, Ints]] = []

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
        ours, theirs = np.broadcast_arrays(first, second)
        one, other = np.broadcast_arrays(self.roots(first), self.roots(second))
        differ = one != other
        count = len(self._parent)
        codes, index = np.unique(one[differ] * count + other[differ], return_index=True)
        if not len(codes):
            return
        left, right = ours[differ][index], theirs[differ][index]
        for code, a, b in zip(codes.tolist(), left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self._root(code // count), self._root(code % count)))
            if low == high:
                continue
            if low == 0:
                fixed = a if self._root(a) == 0 else b
                self._why[high] = self.why(fixed)
            self._parent[high] = low  # the lower one, so that atom 0 stays a root

    def _root(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            above = int(parent[atom])
            if parent[above] != 0:  # the way to atom 0 stays as it is: it tells the reason
                parent[atom] = parent[above]
            atom = int(parent[atom])
        return atom

    def fix(self, labels: Ints, why: str) -> None:
        """Make these atoms, and all they are joined with, unremovable.

        Args:
            labels: of any shape.
            why: completes "its channels stay: ..."; where in the code it happens is added.
        """
        roots = np.unique(self.roots(self._distinct(labels)))
        roots = roots[roots != 0]
        if len(roots):
            place = self.place()
            reason = f"{why} ({place})" if place else why
            if why == NO_CHANNELS:
                reason = self.before() or reason
            self._why.update(dict.fromkeys(roots.tolist(), reason))
            self._parent[roots] = 0

    def why(self, atom: int) -> str:
        """Why an atom is fixed; empty when it is not, or was never said."""
        parent = self._parent
        while parent[atom] != 0:
            if parent[atom] == atom:
                return ""
            atom = int(parent[atom])
        return self._why.get(atom, "")

    def all_fixed(self, labels: Ints) -> bool:
        """Whether none of these can be removed."""
        return not self.roots(self._distinct(labels)).any()

    def _distinct(self, labels: Ints) -> Ints:
        """The atoms in a map, which may be as large as an output, without sorting it."""
        present = np.zeros(len(self._parent), dtype=np.bool_)
        present[labels] = True
        return np.flatnonzero(present)

    def classes_if(self, first: Ints, second: Ints) -> int:
        """How many removable classes ``first`` would have were it united with ``second``."""
        ours, theirs = np.broadcast_arrays(self.roots(first), self.roots(second))
        both = np.concatenate([[0], ours.reshape(-1), theirs.reshape(-1)])
        values, inverse = np.unique(both, return_inverse=True)
        trial = ChannelIds()
        trial.new(len(values) - 1)  # value 0, the fixed class, is the lowest: atom 0
        dense = inverse[1:].reshape(2, -1)
        trial.unite(dense[0], dense[1])
        return len(np.setdiff1d(trial.roots(dense[0]), [0]))
