"""Which round's network is the result where the tasks come before the goal."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgemtl.compress.recover import RecoverResult
from edgemtl.models.base import MultiTaskNetwork


@dataclass(frozen=True)
class BudgetViolation:
    """A task that lost more than it may.

    Attributes:
        task: its name.
        drop: relative drop of its primary figure on the held-out pictures (0.02 is 2 % worse);
            infinite where the figure is lost altogether.
        most: the largest drop that was allowed.
    """

    task: str
    drop: float
    most: float


def furthest_over(
    recovery: RecoverResult, most_drop: Mapping[str, float]
) -> BudgetViolation | None:
    """The task furthest over what it may lose, of the network that a recovery kept.

    Args:
        recovery: with the drops of its evaluations.
        most_drop: task -> largest relative drop. A task that is not named, or that the held-out
            pictures say nothing about, is not judged.

    Returns:
        None when every task is inside.
    """
    drops = dict(recovery.drops)[recovery.best_step]
    over = [
        BudgetViolation(name, drops[name], most)
        for name, most in most_drop.items()
        if name in drops and drops[name] > most
    ]
    return max(over, key=lambda one: one.drop - one.most, default=None)


class BestRound:
    """Remembers the last round after which every task was inside what it may lose.

    Attributes:
        round: its number, counted from 1; 0 while there is none.
        network: a copy of what it left; None while there is none.
        too_much: what was wrong after the round that was seen last; None when nothing was.

    Args:
        most_drop: task -> largest relative drop; where it is empty nothing is judged or copied.
    """

    def __init__(self, most_drop: Mapping[str, float]) -> None:
        self._most_drop = most_drop
        self.round = 0
        self.network: MultiTaskNetwork | None = None
        self.too_much: BudgetViolation | None = None

    def see(self, number: int, network: MultiTaskNetwork, recovery: RecoverResult | None) -> None:
        """Judge what a round left; without recovery there is nothing to judge by."""
        if not self._most_drop or recovery is None:
            return
        self.too_much = furthest_over(recovery, self._most_drop)
        if self.too_much is None:
            # A copy: the next round moves this network's batch statistics before it cuts.
            self.round, self.network = number, copy.deepcopy(network)

    def note(self, rounds: int, macs: float, goal: float | None) -> str:
        """What was decided after the last round and why, as a sentence.

        Args:
            rounds: how many there were.
            macs: share of the dense network's multiply-accumulates in the result, in 0..1.
            goal: the share that was asked for, if any.
        """
        over = self.too_much
        assert over is not None
        drop = f"{over.drop:.1%}" if math.isfinite(over.drop) else "infinitely"
        why = (
            f"after round {rounds} of {rounds} '{over.task}' is {drop} worse than in the dense "
            f"network on the held-out pictures, {over.most:.1%} is allowed"
        )
        left = f"{macs:.1%} of the multiply-accumulates are left"
        if goal is not None:
            left += f", {goal:.1%} was the goal"
        if self.round:
            return f"the result is the network of round {self.round}: {why}; {left}"
        if rounds > 1:
            why += ", and no earlier round kept every task either"
        return f"{why}; {left}"
