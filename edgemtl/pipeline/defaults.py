"""The recipe of a run for a target: built-in defaults, the target's, the user's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgemtl import recipes
from edgemtl.recipes import Recipe
from edgemtl.targets import Target


def recipe_for(target: Target, config: Path | None, assignments: Iterable[str] = ()) -> Recipe:
    """Merge the target's gates and, where real pictures are given, its other defaults.

    A target without float32 gets these in any case: it has no use for an unquantised graph.

    Args:
        target: what is built for.
        config: the user's recipe file, if any.
        assignments: values of ``--set``.

    Raises:
        UsageError: any of them is not valid.
    """
    given = list(assignments)
    gates = {"gates": target.gates} if target.gates else {}
    recipe = recipes.resolve(gates, config, given)
    needed = bool(recipe.data.root) or "fp32" not in target.precisions
    if needed and target.defaults:
        return recipes.resolve({**target.defaults, **gates}, config, given)
    return recipe
