"""``prune``: checkpoint in, smaller checkpoint out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgemtl import recipes, targets
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.job import Job
from edgemtl.compress.prune import prune
from edgemtl.compress.replay.remote import RemoteWorkers
from edgemtl.files import write_json
from edgemtl.models.checkpoint import from_network, load_network, save
from edgemtl.pipeline.prune_stage import latency_on, prune_options, story, training_data


def prune_file(
    model: Path,
    output: Path,
    target_name: str,
    config: Path | None,
    assignments: Sequence[str],
    resume: bool,
    factory: str | None,
    tell: Callable[[str], None],
    elsewhere: Callable[[Job], RemoteWorkers] | None = None,
) -> dict[str, Any]:
    """Prune, write the checkpoint and, beside it, ``OUTPUT.prune.json`` with the whole story.

    What a killed run needs to go on lies in ``OUTPUT.prune-state`` until the checkpoint is written.
    ``elsewhere`` is for :func:`edgemtl.compress.prune.prune`: others that look at the pictures.

    Raises:
        UsageError: the recipe or an option makes no sense, or there are no training pictures.
        InputRefused: the model or the data is refused.
        StageFailed: nothing can be cut, or the place cannot be written.
        TargetUnavailable: milliseconds are asked for on a target that cannot be measured here.
    """
    target = targets.load(target_name)
    recipe = recipes.resolve({}, config, assignments)
    tasks = None if recipe.model.tasks is None else list(recipe.model.tasks)
    network = load_network(model, factory)
    options = prune_options(recipe, target.channel_multiple, tasks, network.selected(tasks))
    data = DataSplits.split(
        training_data(recipe),
        recipe.prune.oracle_images,
        recipe.prune.calibration_images,
        recipe.data.seed,
    )
    state = output.with_name(f"{output.name}.prune-state")
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
    latency = latency_on(recipe, target, options, state, tell)
    result = prune(network, data, options, tell, state, latency, elsewhere)
    meta = {"pruned_from": model.name, "options": options.to_dict()}
    save(from_network(result.network, meta), output)
    found = story(result)
    write_json(output.with_name(f"{output.name}.prune.json"), found)
    shutil.rmtree(state, ignore_errors=True)
    return found
