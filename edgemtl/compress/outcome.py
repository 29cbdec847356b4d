"""What pruning came to: rounds, costs before and after, the network itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemtl.compress.cost import Cost
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency_model import Measured
from edgemtl.compress.reach import Reach
from edgemtl.compress.recover import RecoverResult
from edgemtl.compress.results import GroupStep, Refusal
from edgemtl.compress.search_cost import SearchCost
from edgemtl.compress.shortfall import Goal
from edgemtl.models.base import MultiTaskNetwork


@dataclass(frozen=True)
class Round:
    """What one round of search and recovery did.

    Attributes:
        steps: committed steps, in order.
        widths: group -> (before, after).
        cost: after the round.
        loss_ratio: task -> held-out loss after the cut over before it; empty where the method
            does not measure it.
        spent: cost of the search.
        search_seconds: wall time of the search, loading and tracing included.
        recovery: None when there was none.
        latency: predicted and measured, once per time the search went on; empty without a table.
        refused: steps that were taken back because the network would not run or export.
        explained: reader's weight -> share of what was removed from its outputs that the kept
            channels give back; empty without compensation.
        drops: task -> held-out drop of its figure after the cut, relative; empty where the method
            does not measure it.
        predicted: task -> loss over the dense one as it was foretold for these widths; to be held
            against ``loss_ratio``. Empty where the method foretells nothing.
    """

    steps: tuple[GroupStep, ...]
    widths: Mapping[str, tuple[int, int]]
    cost: Cost
    loss_ratio: Mapping[str, float]
    spent: SearchCost
    search_seconds: float
    recovery: RecoverResult | None = None
    refused: tuple[Refusal, ...] = ()
    latency: tuple[Measured, ...] = ()
    explained: Mapping[str, float] = field(default_factory=dict)
    drops: Mapping[str, float] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "steps": [step.to_dict() for step in self.steps],
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "cost": self.cost.to_dict(),
            "loss_ratio": dict(self.loss_ratio),
            "spent": self.spent.to_dict(),
            "search_seconds": self.search_seconds,
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
            "latency": [measured.to_dict() for measured in self.latency],
            "refused": [refusal.to_dict() for refusal in self.refused],
            "explained": dict(self.explained),
            "drops": {name: _finite(value) for name, value in self.drops.items()},
            "predicted": {name: _finite(value) for name, value in self.predicted.items()},
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class PruneResult:
    """A pruned network and how it came about.

    Attributes:
        network: in eval mode; its ``pruning`` holds the records.
        method: that chose the channels.
        dense, pruned: cost before and after.
        rounds: in order, all that were done.
        kept_round: the one whose network this is, counted from 1; an earlier one than the last
            where the tasks came before the goal.
        goals_reached: whether all goals were; None without goals.
        notes: what the reader must know.
        table: the first round's latency table; None where latency was no goal.
        left_whole: group that the user wanted left whole -> why.
        goals: what came of each goal.
        stopped_by: why the search went no farther, a clause; empty where no goal was missed.
        reach: what the dense network's channels allow; None where nobody looked.
    """

    network: MultiTaskNetwork
    method: str
    dense: Cost
    pruned: Cost
    rounds: tuple[Round, ...]
    kept_round: int
    goals_reached: bool | None
    notes: tuple[str, ...] = ()
    table: LayerTable | None = None
    left_whole: Mapping[str, str] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    stopped_by: str = ""
    reach: Reach | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the network."""
        return {
            "method": self.method,
            "dense": self.dense.to_dict(),
            "pruned": self.pruned.to_dict(),
            "rounds": [one.to_dict() for one in self.rounds],
            "kept_round": self.kept_round,
            "goals_reached": self.goals_reached,
            "notes": list(self.notes),
            "latency_table": None if self.table is None else self.table.to_dict(),
            "left_whole": dict(self.left_whole),
            "goals": {goal.key: goal.to_dict() for goal in self.goals},
            "stopped_by": self.stopped_by,
            "channels": None if self.reach is None else self.reach.to_dict(),
        }
