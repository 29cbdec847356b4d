"""What each task may lose, and how its predicted error is held against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.task_shares import task_shares


@dataclass(frozen=True)
class Allowance:
    """What tasks may lose.

    Attributes:
        shares: (tasks,) what each may lose, relative to the others; only ratios count.
        budgets: (tasks,) factor that a loss may grow by at most; infinite where there is no limit.
        drops: (tasks,) most that a figure may drop by at most, relative; infinite likewise.
    """

    shares: NDArray[np.float64]
    budgets: NDArray[np.float64]
    drops: NDArray[np.float64]

    @staticmethod
    def of(
        tasks: Sequence[str],
        shares: Mapping[str, float],
        budgets: Mapping[str, float],
        drops: Mapping[str, float],
    ) -> Allowance:
        """From what was asked, by name; see :func:`~edgemtl.compress.task_shares.task_shares`."""
        return Allowance(
            task_shares(tasks, shares),
            np.array([budgets.get(name, np.inf) for name in tasks]),
            np.array([drops.get(name, np.inf) for name in tasks]),
        )

    def broken(
        self, ratio: NDArray[np.float64], drop: NDArray[np.float64]
    ) -> list[tuple[int, str]]:
        """Tasks over a limit, with a clause that says which."""
        found = []
        for place, (now, limit) in enumerate(zip(ratio, self.budgets, strict=True)):
            if now > limit:
                found.append(
                    (
                        place,
                        f"its held-out loss is {now:.3f} of the dense one, its budget {limit:g}",
                    )
                )
        for place, (now, limit) in enumerate(zip(drop, self.drops, strict=True)):
            if now > limit:
                found.append(
                    (
                        place,
                        f"it is {now:.1%} worse on the held-out pictures, {limit:.1%} is allowed",
                    )
                )
        return found
