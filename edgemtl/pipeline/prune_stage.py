"""The prune stage: decides whether to prune where the recipe leaves it open, and prunes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.compress.prune import method_module
from edgemtl.data.groups import groups_hash
from edgemtl.models.origin import origin_of
from edgemtl.pipeline.code_key import code_key
from edgemtl.pipeline.prune import (
    PruneOutcome,
    PruneRequest,
    by_latency,
    prune_network,
    training_data,
)
from edgemtl.pipeline.prune_default import decide
from edgemtl.pipeline.stage import CHECKPOINT, Context, Decision, Stage


class Prune(Stage):
    """Leave a smaller checkpoint; goes on where a killed run stopped."""

    keeps_log = False
    makes_weights = True

    def decide(self, context: Context) -> Decision | None:
        """Whether to prune, and why; None where the recipe says so."""
        if context.recipe.prune.enabled is not None:
            return None
        return decide(context.dense, context.recipe, context.target)

    def request(self, context: Context, state: Path) -> PruneRequest:
        """What this run prunes, and for what."""
        dense = origin_of(context.model) if context.dense.pruning else None
        return PruneRequest(
            *(context.dense, context.recipe, context.target, context.model.name, state),
            dense=dense,
        )

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe = context.recipe
        return {
            "options": self.request(context, context.private).options.to_dict(),
            "data": [dataset.fingerprint() for dataset in training_data(recipe)],
            "alike": [groups_hash(dataset) for dataset in training_data(recipe)],
            "method": code_key(method_module(recipe.prune.method)),
            "slices": [recipe.prune.oracle_images, recipe.prune.calibration_images],
            "timed": [
                context.target.model_dump(mode="json"),
                recipe.bench.threads,
                context.backend_code,
            ]
            if by_latency(recipe)
            else None,
        }

    def run(self, context: Context, folder: Path) -> PruneOutcome:
        """Search, cut, recover; write the checkpoint."""
        state = context.cache.work_folder(self.name, self.key(context))
        pruned = prune_network(self.request(context, state))
        pruned.save(folder / CHECKPOINT)
        return pruned
