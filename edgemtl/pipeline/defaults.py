"""The recipe of a run for a target: built-in defaults, the target's, the user's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgemtl import recipes
from edgemtl.recipes import PruneSection, Recipe
from edgemtl.targets import Target

#: keys of ``[prune]`` that say what to come down to
GOAL_KEYS = frozenset({"goal", "flops", "params", "latency_ratio", "budgets"})


def recipe_for(
    target: Target, config: Path | Recipe | None, assignments: Iterable[str] = ()
) -> Recipe:
    """Merge the target's gates, its threads and, where real pictures are given, its other defaults.

    A target without float32 gets these in any case: it has no use for an unquantised graph. A
    pruning goal of the user's replaces the target's as a whole.

    Args:
        target: what is built for.
        config: the user's recipe, if any: a file, or loaded; of the latter, the keys that were set.
        assignments: values of ``--set``.

    Raises:
        UsageError: any of them is not valid.
    """
    given = list(assignments)
    always: dict[str, Any] = {"gates": target.gates} if target.gates else {}
    if target.threads is not None:
        always["bench"] = {"threads": target.threads}
    recipe = recipes.resolve(always, config, given)
    needed = bool(recipe.data.root) or "fp32" not in target.precisions
    if needed and target.defaults:
        defaults = _with_one_goal(target.defaults, recipe.prune)
        bench = {**always.get("bench", {}), **defaults.get("bench", {})}
        return recipes.resolve({**defaults, **always, "bench": bench}, config, given)
    return recipe


def _with_one_goal(defaults: Mapping[str, Any], asked: PruneSection) -> dict[str, Any]:
    """The target's defaults as they go with what the user asks of pruning.

    Merged key by key, a target's share of work would join the user's milliseconds, and the user's
    budgets would never be spent. Where the target's goal holds, it gives way to the tasks; that is
    written down, since a resolved recipe does not tell whose a goal was.
    """
    prune = defaults.get("prune")
    if not isinstance(prune, Mapping) or not GOAL_KEYS & prune.keys():
        return dict(defaults)
    if asked.names_a_goal:
        prune = {key: value for key, value in prune.items() if key not in GOAL_KEYS}
    else:
        prune = {"priority": "tasks", **prune}
    return {**defaults, "prune": prune}
