"""``prune``: checkpoint in, smaller checkpoint out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgemtl.compress.context import PruneContext
from edgemtl.compress.remote import RemoteWorkers
from edgemtl.files import write_json
from edgemtl.models.checkpoint import load_network
from edgemtl.models.origin import origin_of, recorded_name
from edgemtl.pipeline.preflight import check_recipe
from edgemtl.pipeline.prune import PruneOutcome, PruneRequest, prune_network
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import PRUNE
from edgemtl.targets import Target


@dataclass(frozen=True)
class PruneFile:
    """One checkpoint, to be pruned for one target.

    Attributes:
        model: checkpoint.
        output: checkpoint to write.
        target: what it is for.
        recipe: resolved as ``compile`` resolves it (:func:`edgemtl.pipeline.defaults.recipe_for`);
            that a verb was called says more than ``prune.enabled``.
        factory: ``package.module:function`` of the user's own network, or None.
        resume: go on where a killed run of the same call stopped.
    """

    model: Path
    output: Path
    target: Target
    recipe: Recipe
    factory: str | None = None
    resume: bool = True


def prune_file(
    asked: PruneFile,
    workers: Callable[[PruneContext], RemoteWorkers] | None = None,
) -> PruneOutcome:
    """Prune, write the checkpoint and, beside it, ``OUTPUT.prune.json`` with the whole story.

    What a killed run needs to go on lies in ``OUTPUT.prune-state`` until the checkpoint is written.
    ``workers`` is for :func:`edgemtl.compress.prune.prune`: others that look at the pictures.

    Raises:
        UsageError: the recipe or an option makes no sense, or there are no training pictures.
        InputRefused: the model or the data is refused.
        StageFailed: nothing can be cut, or the place cannot be written.
        TargetUnavailable: milliseconds are asked for on a target that cannot be measured here.
    """
    output = asked.output
    check_recipe(asked.recipe, asked.target)
    network = load_network(asked.model, asked.factory)
    state = output.with_name(f"{output.name}.prune-state")
    if not asked.resume:
        shutil.rmtree(state, ignore_errors=True)
    dense = origin_of(asked.model) if network.pruning else None
    request = PruneRequest(
        network, asked.recipe, asked.target, recorded_name(asked.model), state, workers, dense
    )
    pruned = prune_network(request)
    pruned.save(output)
    write_json(output.with_name(f"{output.name}.{PRUNE}"), pruned.story())
    shutil.rmtree(state, ignore_errors=True)
    return pruned
