"""How much each task may lose at each step of the search (PAGCP, section on the sequence).

A task's budget ``T`` bounds its loss before any recovery training: at most ``T`` times the
reference. It is spent over the units in steps whose tolerances form a geometric sequence
``d * lambda ** i`` with ``prod(1 + d * lambda ** i) = T``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgemtl.errors import UsageError

#: the first tolerance, when the user names none, relative to equal tolerances for all units
FIRST_TO_EQUAL = 2.0


def solve_lambda(units: int, first: float, budget: float) -> float:
    """The ``lambda`` with ``prod_{i < units} (1 + first * lambda ** i) = budget``.

    Args:
        units: number of steps, at least 1.
        first: tolerance of the first step, above 0.
        budget: the product, above 1.

    Returns:
        ``lambda`` in 0..inf; 1 for a single unit, whose tolerance is then the whole budget's.

    Raises:
        UsageError: the first step alone spends more than the budget, or a value is out of range.
    """
    if units < 1 or not (first > 0 and budget > 1 and math.isfinite(first * budget)):
        raise UsageError("a budget needs units >= 1, a first tolerance > 0 and a factor > 1")
    if units == 1:
        return 1.0
    if 1 + first >= budget:
        raise UsageError(
            f"a first tolerance of {first:g} spends the whole budget of {budget:g} at once",
            hint=f"choose a first tolerance below {budget - 1:g}",
        )
    from scipy.optimize import brentq

    powers = np.arange(units, dtype=float)
    wanted = math.log(budget)

    def excess(ratio: float) -> float:
        return float(np.log1p(first * ratio**powers).sum()) - wanted

    high = 1.0
    while excess(high) < 0:
        high *= 2.0
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def default_first(units: int, budget: float) -> float:
    """A first tolerance that a decreasing sequence of ``units`` steps can start with."""
    equal = budget ** (1 / units) - 1
    return min(FIRST_TO_EQUAL * equal, 0.9 * (budget - 1)) if units > 1 else budget - 1


@dataclass
class Tolerances:
    """The tolerance of every task's next step.

    Attributes:
        tasks: task names, the order of all arrays here.
        first: tolerance of the first step per task.
        ratio: ``lambda`` per task.
        now: tolerance of the next step per task.
    """

    tasks: tuple[str, ...]
    first: np.ndarray
    ratio: np.ndarray
    now: np.ndarray

    @staticmethod
    def plan(
        units: int, budgets: Mapping[str, float], first: Mapping[str, float] | None = None
    ) -> Tolerances:
        """Solve ``lambda`` for every task.

        Args:
            units: number of steps.
            budgets: task -> factor its loss may grow by in all.
            first: task -> first tolerance; :func:`default_first` where not named.
        """
        chosen = {
            task: (first or {}).get(task, default_first(units, budget))
            for task, budget in budgets.items()
        }
        ratio = [solve_lambda(units, chosen[task], budgets[task]) for task in budgets]
        start = np.array(list(chosen.values()), float)
        return Tolerances(tuple(budgets), start, np.array(ratio, float), start.copy())

    def committed(self) -> None:
        """A step was committed: the next tolerances are ``lambda`` times these."""
        self.now = self.now * self.ratio

    @property
    def largest_first(self) -> bool:
        """Whether the tolerances shrink, so that the unit that saves most should come first.

        Where they grow it should come last: the largest saving always meets the loosest tolerance.
        """
        return bool(np.log(np.maximum(self.ratio, 1e-12)).mean() <= 0)
