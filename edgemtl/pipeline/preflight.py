"""Everything that a run would be refused for, found before any work is done or anything written.

A dry run and a run are checked by the same two functions, so that what the one accepts the other
starts.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgemtl.compress.channels.whole import check_patterns
from edgemtl.errors import UsageError
from edgemtl.pipeline.experts import check_experts
from edgemtl.pipeline.prune import prune_options, training_data
from edgemtl.pipeline.stage import Context, Stage
from edgemtl.pipeline.task_limits import task_budgets
from edgemtl.recipes import Recipe
from edgemtl.targets import Target


def check_recipe(recipe: Recipe, target: Target) -> None:
    """Refuse what a resolved recipe asks of a target that does not have it.

    Values that make no sense anywhere are refused when the recipe is read.

    Raises:
        UsageError: naming the key.
    """
    check_precision(recipe, target)
    _check_method(recipe)


def check_precision(recipe: Recipe, target: Target) -> None:
    """Refuse a precision that the target does not have.

    Raises:
        UsageError: naming those it has.
    """
    asked = recipe.quantize.precision
    hint = f"it has {', '.join(target.precisions)}"
    if not recipe.quantize.enabled:
        if "fp32" not in target.precisions:
            raise UsageError(
                f"target '{target.name}' has no fp32, and quantisation is off",
                where="quantize.enabled",
                hint=hint,
            )
    elif asked != "auto" and asked not in target.precisions:
        raise UsageError(
            f"target '{target.name}' has no {asked}", where="quantize.precision", hint=hint
        )


def _check_method(recipe: Recipe) -> None:
    from edgemtl.compress.prune import methods

    if recipe.prune.method not in methods():
        raise UsageError(
            f"there is no pruning method '{recipe.prune.method}'",
            where="prune.method",
            hint=f"one of {', '.join(methods())}",
        )


def check_inputs(context: Context, stages: Iterable[Stage]) -> None:
    """Refuse what the stages could only fail on.

    Raises:
        InputRefused: the model or the data folder.
        UsageError: a task that the network does not have, to keep, in a gate or with a budget; a
            module that it does not have, to prune or to leave whole; experts to be written
            sparsely where there are none that can be; a precision that the target does not have.
    """
    recipe, target = context.recipe, context.target
    check_recipe(recipe, target)
    known = [task.name for task in context.dense.tasks]
    kept = context.task_names
    for name in recipe.gates.tasks:
        _require(name, known, "gate", f"gates.tasks.{name}")
    asked = recipe.prune
    if asked.enabled is not False:
        check_patterns(context.dense, asked.keep_whole, "prune.keep_whole")
        check_patterns(context.dense, asked.only, "prune.only")
    check_experts(context.dense, recipe)
    for name in asked.budgets:
        _require(name, kept, "budget", f"prune.budgets.{name}")
    if recipe.mask.enabled:
        training_data(recipe, "masks need training pictures")
        if recipe.export.task_files:
            raise UsageError(
                "a graph per task and networks behind a router do not go together",
                where="export.task_files",
                hint="leave it out, or --set mask.enabled=false",
            )
    if recipe.quantize.enabled:
        _ = task_budgets(recipe, context.tasks)
    if asked.enabled:
        training_data(recipe)
        _ = prune_options(recipe, target, context.dense)
    if any(stage.needs_data for stage in stages):
        _ = context.calibration, context.evaluation


def _require(name: str, known: Iterable[str], what: str, where: str) -> None:
    if name not in known:
        raise UsageError(
            f"there is a {what} for task '{name}', which the network does not have",
            where=where,
            hint=f"its tasks: {', '.join(sorted(known))}",
        )
