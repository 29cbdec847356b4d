"""A goal of pruning that was missed: by how much, and what stopped the search short of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemtl.compress.channels.groups import FLOOR
from edgemtl.compress.context import PruneContext
from edgemtl.compress.cost import Keep
from edgemtl.compress.results import Refusal

#: goal -> the recipe's key for it, and what is left of the dense network
GOALS = {
    "macs": ("flops", "multiply-accumulates"),
    "params": ("params", "parameters"),
    "latency": ("latency_ratio", "latency"),
}


@dataclass(frozen=True)
class Goal:
    """A goal and what came of it.

    Attributes:
        key: of the recipe's ``[prune]``: ``flops``, ``params`` or ``latency_ratio``.
        left: share of the dense network that is left.
        asked: share that was to be come down to.
    """

    key: str
    left: float
    asked: float

    @property
    def missed(self) -> bool:
        """Whether more is left than was asked for."""
        return self.left > self.asked

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"left": self.left, "asked": self.asked, "missed": self.missed}


def goals_of(shares: Mapping[str, tuple[float, float]]) -> tuple[Goal, ...]:
    """Of :meth:`edgemtl.compress.cost.Goals.shares`."""
    return tuple(Goal(GOALS[name][0], left, asked) for name, (left, asked) in shares.items())


def sentence(goal: Goal, stopped_by: str) -> str:
    """A missed goal in words."""
    words = next(words for key, words in GOALS.values() if key == goal.key)
    because = f": {stopped_by}" if stopped_by else ""
    return (
        f"the {goal.key} goal was missed, {goal.left:.3f} of the dense network's {words} are left "
        f"and {goal.asked:.3f} was asked for{because}"
    )


def what_stopped(context: PruneContext, keep: Keep, refused: Sequence[Refusal]) -> str:
    """Why a search went no farther, as a clause: the floor that it stands on.

    Args:
        context: of the last round.
        keep: its result.
        refused: steps that it had to take back.
    """
    multiple = context.options.channel_multiple
    open_ = [
        name
        for name, mask in keep.items()
        if int(mask.sum()) > min(context.choices[name], default=len(mask))
    ]
    whole = (
        f"; {len(context.left_whole)} groups are left whole as asked" if context.left_whole else ""
    )
    if not open_:
        return (
            f"nothing is left to cut, all {len(context.groups)} groups are at their narrowest "
            f"(multiples of {multiple} channels, {FLOOR:.1%} of a group at least){whole}"
        )
    stuck = {refusal.group for refusal in refused}
    if stuck and stuck >= set(open_):
        return f"the network would not run or export with '{min(stuck)}' narrower{whole}"
    limits = dict(context.options.budgets)
    if limits:
        named = ", ".join(f"{task}={factor:g}" for task, factor in limits.items())
        return f"the tasks' budgets ({named}) allow no more{whole}"
    return f"no step was found for the {len(open_)} groups that could be narrower{whole}"
