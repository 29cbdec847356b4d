"""The mask stage: networks for pictures that need less, where held-out pictures gain by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.pipeline.export import ExportRequest
from edgemtl.pipeline.mask import MaskOutcome, MaskRequest, mask_network
from edgemtl.pipeline.prune import training_data
from edgemtl.pipeline.stage import Context, Stage


class Mask(Stage):
    """Ask whether masks pay; leave ``routing.json`` and its networks where they do.

    Without a gain on held-out pictures the simpler network goes on, and nothing else is left. A
    killed training goes on where it stopped.
    """

    keeps_log = False
    makes_weights = True

    def request(self, context: Context) -> MaskRequest:
        """What this run masks, and for what."""
        network = context.network(self.reads["network"])
        return MaskRequest(network, context.recipe, context.target, context.model.name)

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe, target = context.recipe, context.target
        return {
            "asked": recipe.mask.model_dump(mode="json"),
            "tasks": context.task_names,
            "seed": recipe.data.seed,
            "data": [dataset.fingerprint() for dataset in training_data(recipe)],
            "target": target.channel_multiple,
            "export": ExportRequest(context.dense, target, recipe).to_dict(),
        }

    def run(self, context: Context, folder: Path) -> MaskOutcome:
        """Analyse, decide, build."""
        state = context.cache.work_folder(self.name, self.key(context))
        return mask_network(self.request(context), folder, state)
