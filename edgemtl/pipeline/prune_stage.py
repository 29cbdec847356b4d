"""The prune stage: search, cut and recovery, on training pictures only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.compress.job import PruneOptions
from edgemtl.compress.prune import prune
from edgemtl.compress.recover import RecoverOptions
from edgemtl.compress.slices import PruneData
from edgemtl.data.open import open_dataset
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError
from edgemtl.files import write_json
from edgemtl.models.checkpoint import from_network, save
from edgemtl.pipeline.stage import CHECKPOINT, Context, Stage, Tell
from edgemtl.recipes import Recipe

PRUNE = "prune.json"


def prune_options(recipe: Recipe, multiple: int, tasks: list[str] | None) -> PruneOptions:
    """What ``[prune]`` and ``[recover]`` ask for.

    Raises:
        UsageError: a value that makes no sense.
    """
    asked, recovery = recipe.prune, recipe.recover
    return PruneOptions(
        method=asked.method,
        flops=asked.flops,
        params=asked.params,
        tasks=None if tasks is None else tuple(tasks),
        budgets=asked.budgets,
        channel_multiple=asked.channel_multiple or multiple,
        rounds=asked.rounds,
        seed=recipe.data.seed,
        recovery=RecoverOptions(
            steps=recovery.steps,
            batch=recovery.batch,
            learning_rate=recovery.learning_rate,
            size=recovery.size,
            seed=recipe.data.seed,
        )
        if recovery.steps
        else None,
    )


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
    return [open_dataset(root, data.training, data.format) for root in data.root]


class Prune(Stage):
    """Leave a smaller checkpoint; goes on where a killed run stopped."""

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe = context.recipe
        return {
            "options": self._options(context).to_dict(),
            "data": [dataset.fingerprint() for dataset in training_data(recipe)],
            "slices": [recipe.prune.oracle_images, recipe.prune.calibration_images],
        }

    @staticmethod
    def _options(context: Context) -> PruneOptions:
        multiple = context.target.channel_multiple
        return prune_options(context.recipe, multiple, context.recipe_tasks)

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Search, cut, recover; write the checkpoint and ``prune.json``."""
        asked, seed = context.recipe.prune, context.recipe.data.seed
        data = PruneData.split(
            training_data(context.recipe), asked.oracle_images, asked.calibration_images, seed
        )
        state = context.cache.work_folder(self.name, self.key(context))
        result = prune(context.dense, data, self._options(context), tell, state)
        save(from_network(result.network, {"pruned_from": context.model.name}), folder / CHECKPOINT)
        story = result.to_dict()
        story["steps"] = [step for one in story["rounds"] for step in one["steps"]]
        write_json(folder / PRUNE, story)
        kept = result.pruned.macs / result.dense.macs
        tell(f"{kept:.1%} of the multiply-accumulates kept, by {result.method}")
        for note in result.notes:
            tell(note)
