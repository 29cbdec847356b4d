"""What gates, budgets and goals mean for a task: how much of its accuracy each step may spend."""

from __future__ import annotations

from collections.abc import Sequence

from edgemtl.errors import UsageError
from edgemtl.recipes import PruneSection, Recipe
from edgemtl.tasks.base import Task

#: relative drop that quantisation may cost a task where its gate sets none
DEFAULT_BUDGET = 0.01
#: share of a task's gate that quantisation may use up
SHARE_OF_GATE = 0.5


def task_budgets(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, float]:
    """Task name -> largest relative drop that quantisation may cost it.

    That is the recipe's, else half of what the task's gate allows.

    Raises:
        UsageError: a budget for a task that the network does not have.
    """
    asked = recipe.quantize.budgets
    names = [task.name for task in tasks]
    for name in asked:
        if name not in names:
            raise UsageError(
                f"there is a budget for task '{name}', which the network does not have",
                where="quantize.budgets",
                hint=f"its tasks: {', '.join(names)}",
            )
    found = {}
    for name in names:
        gate = recipe.gates.task(name).max_relative_drop
        usual = DEFAULT_BUDGET if gate is None else gate * SHARE_OF_GATE
        found[name] = asked.get(name, usual)
    return found


def goal_comes_first(asked: PruneSection) -> bool:
    """Whether a pruning goal holds whatever the tasks lose: one that the user named, mostly."""
    return (asked.priority or ("goal" if asked.names_a_goal else "tasks")) == "goal"


def gate_drops(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, float]:
    """Task name -> largest relative drop that its gate allows; none where a gate is off."""
    gates = {task.name: recipe.gates.task(task.name).max_relative_drop for task in tasks}
    return {name: gate for name, gate in gates.items() if gate is not None}


def most_drops(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, float]:
    """Task name -> largest relative drop that pruning may cost it.

    That is what quantisation leaves of its gate. Empty where the goal comes before the tasks; a
    task whose gate is off has no limit.

    Raises:
        UsageError: quantisation has a budget for a task that is not among these.
    """
    lower = recipe.quantize
    if goal_comes_first(recipe.prune) or not tasks:
        return {}
    rounded = lower.enabled and lower.precision != "fp32"
    spent = task_budgets(recipe, tasks) if rounded else {}
    return {
        name: max(gate - spent.get(name, 0.0), 0.0)
        for name, gate in gate_drops(recipe, tasks).items()
    }
