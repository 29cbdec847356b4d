"""Whether to prune where the recipe leaves it open: only with pictures to search and recover on."""

from __future__ import annotations

import time

import numpy as np
import torch

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import batches, losses_per_image
from edgemtl.compress.channels.discover import discover
from edgemtl.compress.channels.whole import left_whole
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.reach import Reach, reach_of
from edgemtl.data.concat import thinned
from edgemtl.data.samples import Dataset
from edgemtl.errors import EdgemtlError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.pipeline.prune import prune_options, training_data
from edgemtl.pipeline.stage import Decision
from edgemtl.recipes import Recipe
from edgemtl.targets import Target

#: with fewer training pictures recovery would learn them by heart
FEWEST_IMAGES = 500
#: pictures per data set on which the network is tried
TRIED = 12
#: of the estimate. A step of recovery runs the dense network once and the pruned one forward and
#: back; a sweep of the search checks most groups once or twice, on the part behind them
PASSES_PER_STEP, LOADING = 4.0, 1.2
SWEEPS, IMAGES_PER_GROUP, SHARE_BEHIND = 4, 36, 0.5


def decide(network: MultiTaskNetwork, recipe: Recipe, target: Target) -> Decision:
    """Prune by default where that can work; say why, or why not, and how long it takes.

    Args:
        network: as it came; loaded before any data set is opened, since the package that it comes
            from may make the data's layout known.
        recipe: resolved, ``prune.enabled`` unset.
        target: what it is pruned for.
    """
    if not recipe.data.root:
        return _decided(
            recipe,
            False,
            "not pruned: that needs training pictures (--data DIR with a split "
            f"'{recipe.data.training}')",
        )
    try:
        datasets = training_data(recipe)
        count = sum(len(dataset) for dataset in datasets)
        if count < FEWEST_IMAGES:
            few = f"{count} training pictures are too few to recover with ({FEWEST_IMAGES})"
            return _decided(recipe, False, f"not pruned: {few}")
        options = prune_options(recipe, target, network)
        refusal, seconds, reach = _look(network, datasets, options)
    except EdgemtlError as error:
        # What is wrong here is said by the stage that needs it, if any does.
        return _decided(recipe, False, f"not pruned: {error.message}")
    if refusal:
        return _decided(recipe, False, f"not pruned: {refusal}")
    names = " + ".join(dataset.name for dataset in datasets)
    return _decided(
        recipe,
        True,
        f"pruning to {_goals(options)}{_unless(options)} with {count:,} training "
        f"pictures of {names}, then training to recover: about {max(seconds / 60, 1):.0f} min on "
        f"this machine, once; --no-prune leaves it out{_short(reach)}",
    )


def _decided(recipe: Recipe, enabled: bool, reason: str) -> Decision:
    section = recipe.prune.model_copy(update={"enabled": enabled})
    return Decision(recipe.model_copy(update={"prune": section}), enabled, reason)


def _goals(options: PruneOptions) -> str:
    found = [
        f"{share:.0%} of the {name}"
        for share, name in (
            (options.flops, "multiply-accumulates"),
            (options.params, "parameters"),
            (options.latency_ratio, "latency"),
        )
        if share is not None
    ]
    return " and ".join(found) if found else "the tasks' budgets"


def _short(reach: Reach | None) -> str:
    if reach is None or not reach.short:
        return ""
    return (
        f"; the goal is out of reach: with every group at its narrowest {reach.lowest:.1%} of the "
        "multiply-accumulates are left ('edgemtl inspect --groups' says why)"
    )


def _unless(options: PruneOptions) -> str:
    if not options.most_drop or options.recovery is None or options.rounds == 1:
        return ""
    return ", or less far where that costs a task more than its gate leaves,"


def _look(
    network: MultiTaskNetwork, datasets: list[Dataset], options: PruneOptions
) -> tuple[str, float, Reach | None]:
    """Why not to prune (empty when there is no reason), how many seconds it would take, and how far
    down the channels let the work come.
    """
    if network.pruning:
        return "the network is pruned already (--prune does it again)", 0.0, None
    tasks = network.selected(None if options.tasks is None else list(options.tasks))
    size = network.input_spec.size
    labelled = np.zeros(len(tasks), bool)
    seconds: list[float] = []
    network.eval()
    for dataset in datasets:
        prepared = prepare_all(thinned(dataset, TRIED), tasks, network.input_spec, options.seed)
        for batch in batches(prepared, tasks, size, 4):
            began = time.monotonic()
            with torch.inference_mode():
                outputs = network(batch.images)
                seconds.append((time.monotonic() - began) / len(batch.images))
                labelled |= (losses_per_image(outputs, batch, tasks) != 0).any(axis=0)
    missing = [task.name for task, found in zip(tasks, labelled, strict=True) if not found]
    if missing:
        return f"no training picture that was looked at is labelled for '{missing[0]}'", 0.0, None
    found = discover(network)
    groups = found.groups
    if not groups:
        return "the network has no group of channels that can be cut", 0.0, None
    whole = left_whole(groups, options.keep_whole, options.only)
    free = [group for group in groups if group.name not in whole]
    if not free:
        return "keep_whole and only leave every group of channels whole", 0.0, None
    reach = reach_of(found, options.channel_multiple, options.flops, free)
    return "", _estimate(len(free), min(seconds), size, options), reach


def _estimate(groups: int, per_image: float, size: tuple[int, int], options: PruneOptions) -> float:
    """Seconds of search and recovery, from what one picture takes forward."""
    search = options.rounds * SWEEPS * groups * IMAGES_PER_GROUP * SHARE_BEHIND * per_image
    recovery = options.recovery
    if recovery is None:
        return search
    height, width = recovery.size or size
    area = height * width / (size[0] * size[1])
    steps = recovery.steps * recovery.batch * PASSES_PER_STEP * LOADING
    return search + steps * area * per_image
