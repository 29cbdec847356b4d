"""The prune stage: search, cut and recovery, on training pictures only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.job import PruneOptions
from edgemtl.compress.latency_model import Latency
from edgemtl.compress.outcome import PruneResult
from edgemtl.compress.prune import prune
from edgemtl.compress.recover import RecoverOptions
from edgemtl.data.open import open_dataset
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError
from edgemtl.files import write_json
from edgemtl.models.checkpoint import from_network, save
from edgemtl.pipeline.quantising import task_budgets
from edgemtl.pipeline.stage import CHECKPOINT, Context, Stage, Tell
from edgemtl.recipes import Recipe
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

PRUNE = "prune.json"
#: kept shares of multiply-accumulates and parameters where the recipe asks for nothing
DEFAULT_KEPT = 0.4
#: kept share of the latency where only ``goal = "latency"`` is asked
DEFAULT_LATENCY = 0.5
#: rounds on the way to a goal
DEFAULT_ROUNDS = 2
#: evaluations during recovery, and steps between them at least
EVALUATIONS, FEWEST_STEPS = 8, 50


def prune_options(
    recipe: Recipe, multiple: int, tasks: list[str] | None, judged: Sequence[Task] = ()
) -> PruneOptions:
    """What ``[prune]`` and ``[recover]`` ask for.

    Args:
        recipe: resolved.
        multiple: of the widths, where the recipe names none.
        tasks: to prune for; all when None.
        judged: the same as tasks of the network, for what each may lose; none where it is not
            known yet.

    Raises:
        UsageError: a value that makes no sense.
    """
    asked, recovery = recipe.prune, recipe.recover
    flops, params, ratio = asked.flops, asked.params, asked.latency_ratio
    if by_latency(recipe):
        if ratio is None and (flops, params) != (None, None):
            raise UsageError(
                "a goal in milliseconds does not go with a share of work alone",
                where="[prune] goal",
                hint="give latency_ratio too, or leave goal out",
            )
        if ratio is None and not asked.budgets:
            ratio = DEFAULT_LATENCY
    elif (flops, params) == (None, None) and not asked.budgets:
        flops = params = DEFAULT_KEPT
    towards = any(goal is not None for goal in (flops, params, ratio))
    steps = recovery.steps
    return PruneOptions(
        method=asked.method,
        flops=flops,
        params=params,
        latency_ratio=ratio,
        tasks=None if tasks is None else tuple(tasks),
        budgets=asked.budgets,
        channel_multiple=asked.channel_multiple or multiple,
        rounds=asked.rounds or (DEFAULT_ROUNDS if towards and steps else 1),
        seed=recipe.data.seed,
        recovery=RecoverOptions(
            steps=steps,
            batch=recovery.batch,
            learning_rate=recovery.learning_rate,
            size=recovery.size,
            evaluate_every=max(FEWEST_STEPS, steps // EVALUATIONS),
            seed=recipe.data.seed,
        )
        if steps
        else None,
        most_drop=most_drops(recipe, judged),
    )


def most_drops(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, float]:
    """Task -> largest relative drop that pruning may cost it: what quantisation leaves of its gate.

    Empty where the goal comes before the tasks; a task whose gate is off has no limit.

    Raises:
        UsageError: quantisation has a budget for a task that is not among these.
    """
    asked, lower = recipe.prune, recipe.quantize
    priority = asked.priority or ("goal" if asked.names_a_goal else "tasks")
    if priority == "goal" or not tasks:
        return {}
    rounded = lower.enabled and lower.precision != "fp32"
    spent = task_budgets(recipe, tasks) if rounded else {}
    gates = {task.name: recipe.gates.task(task.name).max_relative_drop for task in tasks}
    return {
        name: max(gate - spent.get(name, 0.0), 0.0)
        for name, gate in gates.items()
        if gate is not None
    }


def by_latency(recipe: Recipe) -> bool:
    """Whether steps are ordered by what they save in milliseconds on the target."""
    return recipe.prune.goal == "latency" or recipe.prune.latency_ratio is not None


def training_data(recipe: Recipe) -> list[Dataset]:
    """The training splits of all data folders.

    Raises:
        UsageError: no folder is given; the embedded set is too small and not real.
    """
    data = recipe.data
    if not data.root:
        raise UsageError(
            "pruning needs real training pictures",
            where="[data] root",
            hint="give --data DIR with a training split, or switch [prune] off",
        )
    return [open_dataset(root, data.training, data.format) for root in data.folders]


def latency_on(
    recipe: Recipe, target: Target, options: PruneOptions, folder: Path, tell: Tell
) -> Latency | None:
    """The target's stopwatch where the recipe asks for milliseconds; its tables lie in ``folder``.

    Raises:
        TargetUnavailable: this machine is not the target, or its runtime does not work here.
    """
    if not by_latency(recipe):
        return None
    # Two networks take turns, which idle threads of a pool would disturb.
    threads = recipe.bench.threads or 1
    return Latency(target, options.channel_multiple, folder, threads, tell)


class Prune(Stage):
    """Leave a smaller checkpoint; goes on where a killed run stopped."""

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe = context.recipe
        return {
            "options": self._options(context).to_dict(),
            "data": [dataset.fingerprint() for dataset in training_data(recipe)],
            "slices": [recipe.prune.oracle_images, recipe.prune.calibration_images],
            "timed": [context.target.model_dump(mode="json"), recipe.bench.threads]
            if by_latency(recipe)
            else None,
        }

    @staticmethod
    def _options(context: Context) -> PruneOptions:
        multiple = context.target.channel_multiple
        return prune_options(context.recipe, multiple, context.recipe_tasks, context.tasks)

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Search, cut, recover; write the checkpoint and ``prune.json``."""
        recipe, options = context.recipe, self._options(context)
        asked, seed = recipe.prune, recipe.data.seed
        data = DataSplits.split(
            training_data(recipe), asked.oracle_images, asked.calibration_images, seed
        )
        state = context.cache.work_folder(self.name, self.key(context))
        latency = latency_on(recipe, context.target, options, state, context.progress)
        result = prune(context.dense, data, options, context.progress, state, latency)
        save(from_network(result.network, {"pruned_from": context.model.name}), folder / CHECKPOINT)
        write_json(folder / PRUNE, story(result))
        for line in summary(result):
            tell(line)


def story(result: PruneResult) -> dict[str, Any]:
    """``prune.json``: the result, with the steps of all rounds that are in it in one list."""
    found = result.to_dict()
    kept = found["rounds"][: result.kept_round]
    found["steps"] = [step for one in kept for step in one["steps"]]
    return found


def summary(result: PruneResult) -> list[str]:
    """What came of it, in sentences."""
    macs, params = (
        getattr(result.pruned, name) / getattr(result.dense, name) for name in ("macs", "params")
    )
    lines = [
        f"{macs:.1%} of the multiply-accumulates and {params:.1%} of the parameters kept, by "
        f"{result.method}"
    ]
    measured = result.rounds[result.kept_round - 1].latency
    if measured and result.table is not None:
        last = measured[-1]
        lines.append(
            f"latency on {result.table.target}: {last.ratio:.1%} of the dense network's measured "
            f"(+- {last.half:.1%}), {last.predicted:.1%} predicted; noise of the table "
            f"{result.table.noise:.1%}"
        )
    return [*lines, *result.notes]
