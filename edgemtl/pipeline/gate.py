"""Judging what was measured: what the gates stage and the verb share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgemtl.gates.judge import GateFacts, GateReport, judge
from edgemtl.gates.limits import GateLimits
from edgemtl.pipeline.task_limits import goal_comes_first
from edgemtl.recipes import PruneSection
from edgemtl.record.prune_story import read_goals
from edgemtl.record.run_record import GATES, Measured


@dataclass(frozen=True)
class Verdicts:
    """What the gates said."""

    report: GateReport

    def documents(self) -> dict[str, Any]:
        """``gates.json``."""
        return {GATES: self.report.to_dict()}

    def summary(self) -> list[str]:
        """How many gates said what."""
        counts = [outcome.status for outcome in self.report.outcomes]
        told = ", ".join(f"{counts.count(s)} {s}" for s in dict.fromkeys(counts))
        return [told or "no gates"]


def judge_measured(limits: GateLimits, measured: Measured, pruned: PruneSection) -> Verdicts:
    """Hold what was measured against limits, and against the goals of pruning that bind.

    Args:
        limits: of the recipe.
        measured: in a run, or kept by one.
        pruned: what the run asked of pruning.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is not as it should be.
    """
    return Verdicts(judge(limits, gate_facts(measured, pruned)))


def gate_facts(measured: Measured, pruned: PruneSection) -> GateFacts:
    """What gates judge; errors as :func:`judge_measured`."""
    goals = binding_goals(pruned, measured.pruning)
    return replace(measured.gate_facts(), goals=goals)


def binding_goals(asked: PruneSection, story: Any) -> dict[str, tuple[float, float, str]]:
    """The goals of ``prune.json`` that hold whatever the tasks lose, as the gates take them."""
    if not isinstance(story, dict) or not goal_comes_first(asked):
        return {}
    return read_goals(story)
