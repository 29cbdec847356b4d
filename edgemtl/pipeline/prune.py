"""Pruning as a recipe asks for it: what the prune stage, the verb and the farm share.

The three differ in where the network comes from and where the result goes. What is pruned for, and
what a task may lose by it, is settled here, so that they cannot differ in that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.compress.context import PruneContext, PruneOptions
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.latency_model import Latency
from edgemtl.compress.outcome import PruneResult
from edgemtl.compress.prune import prune
from edgemtl.compress.recover import RecoverOptions
from edgemtl.compress.remote import RemoteWorkers
from edgemtl.compress.shortfall import sentence
from edgemtl.data.open import open_dataset
from edgemtl.data.samples import Dataset
from edgemtl.errors import CostGateFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, save, weights_hash
from edgemtl.models.origin import DENSE, Origin
from edgemtl.pipeline.cache import LATENCY, STAGES, default_folder
from edgemtl.pipeline.task_limits import gate_drops, goal_comes_first, most_drops
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import PRUNE
from edgemtl.targets import Target

#: kept shares of multiply-accumulates and parameters where the recipe asks for nothing
DEFAULT_KEPT = 0.4
#: kept share of the latency where only ``goal = "latency"`` is asked
DEFAULT_LATENCY = 0.5
#: rounds on the way to a goal
DEFAULT_ROUNDS = 2
#: evaluations during recovery, and steps between them at least
EVALUATIONS, FEWEST_STEPS = 8, 20
#: share of its limit at which a task is well: pictures not held out may judge it less kindly
WELL = 0.5


@dataclass(frozen=True)
class PruneRequest:
    """One network, to be pruned for one target.

    Attributes:
        network: left as it is; loaded already, so that whatever package it comes from has made its
            data sets known.
        recipe: resolved, with the target's defaults and gates (:func:`~.defaults.recipe_for`).
        target: its multiple of channels, and what milliseconds are measured on.
        source: name of the checkpoint that the network came from; written into the result.
        state: folder with what a killed run needs to go on.
        dense: the network that this one was pruned from before; None where it is dense itself.
        workers: opens the processes of others that look at the held-out pictures.
    """

    network: MultiTaskNetwork
    recipe: Recipe
    target: Target
    source: str
    state: Path
    workers: Callable[[PruneContext], RemoteWorkers] | None = None
    dense: Origin | None = None

    @property
    def options(self) -> PruneOptions:
        """What is pruned for."""
        return prune_options(self.recipe, self.target, self.network)


@dataclass(frozen=True)
class PruneOutcome:
    """A pruned network with its story.

    Attributes:
        result: of the search and of recovery.
        options: what was pruned for.
        source: name of the checkpoint that the network came from.
        binding: whether the goals hold whatever the tasks lose.
        dense: the dense network's file and hash, for the record.
    """

    result: PruneResult
    options: PruneOptions
    source: str
    binding: bool = False
    dense: Origin | None = None

    def story(self) -> dict[str, Any]:
        """``prune.json``: the result, with the steps of all rounds that are in it in one list."""
        found = self.result.to_dict()
        kept = found["rounds"][: self.result.kept_round]
        found["steps"] = [step for one in kept for step in one["steps"]]
        return found

    def summary(self) -> list[str]:
        """What came of it, in sentences."""
        result = self.result
        macs, params = (
            getattr(result.pruned, name) / getattr(result.dense, name)
            for name in ("macs", "params")
        )
        lines = [
            f"{macs:.1%} of the multiply-accumulates and {params:.1%} of the parameters kept, by "
            f"{result.method}"
        ]
        if result.left_whole:
            lines.append(f"{len(result.left_whole)} groups left whole as asked (keep_whole, only)")
        measured = result.rounds[result.kept_round - 1].latency
        if measured and result.table is not None:
            last = measured[-1]
            lines.append(
                f"latency on {result.table.target}: {last.ratio:.1%} of the dense network's "
                f"measured (+- {last.half:.1%}), {last.predicted:.1%} predicted; noise of the "
                f"table {result.table.noise:.1%}"
            )
        return [*lines, *result.notes]

    def check_goals(self) -> None:
        """Refuse a result that missed a goal which was to hold.

        Raises:
            CostGateFailed: saying by how much, and what stopped the search.
        """
        missed = [goal for goal in self.result.goals if goal.missed]
        if self.binding and missed:
            raise CostGateFailed(
                "; ".join(sentence(goal, self.result.stopped_by) for goal in missed),
                where=f"prune.{missed[0].key}",
                hint="ask for less, or change what stopped it; the result is written",
            )

    def documents(self) -> dict[str, Any]:
        """``prune.json``."""
        return {PRUNE: self.story()}

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint.

        Raises:
            StageFailed: the place cannot be written.
        """
        meta: dict[str, Any] = {"pruned_from": self.source, "options": self.options.to_dict()}
        if self.dense is not None:
            meta[DENSE] = self.dense.to_dict()
        save(from_network(self.result.network, meta), checkpoint)


def prune_network(request: PruneRequest) -> PruneOutcome:
    """Search, cut and recover, on training pictures only; goes on where a killed run stopped.

    Raises:
        UsageError: the recipe makes no sense, or there are no training pictures.
        InputRefused: the data is refused.
        StageFailed: nothing can be cut.
        TargetUnavailable: milliseconds are asked for on a target that cannot be measured here.
    """
    recipe, options = request.recipe, request.options
    asked = recipe.prune
    data = DataSplits.split(
        training_data(recipe), asked.oracle_images, asked.calibration_images, recipe.data.seed
    )
    latency = latency_on(recipe, request.target, options)
    result = prune(request.network, data, options, request.state, latency, request.workers)
    dense = request.dense or Origin(request.source, weights_hash(request.network))
    return PruneOutcome(result, options, request.source, goal_comes_first(recipe.prune), dense)


def prune_options(recipe: Recipe, target: Target, network: MultiTaskNetwork) -> PruneOptions:
    """What ``[prune]`` and ``[recover]`` ask for on a target.

    Raises:
        UsageError: a value that makes no sense, or a task that the network does not have.
    """
    asked, recovery, names = recipe.prune, recipe.recover, recipe.model.tasks
    judged = network.selected(None if names is None else list(names))
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
    gates, most = gate_drops(recipe, judged), most_drops(recipe, judged)
    return PruneOptions(
        method=asked.method,
        flops=flops,
        params=params,
        latency_ratio=ratio,
        tasks=None if names is None else tuple(names),
        budgets=asked.budgets,
        allowed=gates,
        compensate=asked.compensate,
        channel_multiple=asked.channel_multiple or target.channel_multiple,
        keep_whole=asked.keep_whole,
        only=asked.only,
        rounds=asked.rounds or (DEFAULT_ROUNDS if towards and steps else 1),
        seed=recipe.data.seed,
        recovery=RecoverOptions(
            steps=steps,
            batch=recovery.batch,
            learning_rate=recovery.learning_rate,
            size=recovery.size,
            evaluate_every=max(FEWEST_STEPS, steps // EVALUATIONS),
            seed=recipe.data.seed,
            train=recovery.train,
            allowed=gates,
            enough={name: WELL * limit for name, limit in (most or gates).items()},
        )
        if steps
        else None,
        most_drop=most,
        one_cut_first=asked.rounds is None,
    )


def by_latency(recipe: Recipe) -> bool:
    """Whether steps are ordered by milliseconds on the target."""
    return recipe.prune.goal == "latency" or recipe.prune.latency_ratio is not None


def training_data(
    recipe: Recipe, need: str = "pruning needs real training pictures"
) -> list[Dataset]:
    """Pictures to search and recover on.

    Raises:
        UsageError: the recipe names no folder.
        InputRefused: a folder or its split is not there.
    """
    data = recipe.data
    if not data.root:
        raise UsageError(
            need,
            where="[data] root",
            hint="give --data DIR with a training split, or leave that step out",
        )
    return [open_dataset(root, data.training, data.format) for root in data.folders]


def latency_on(
    recipe: Recipe,
    target: Target,
    options: PruneOptions,
) -> Latency | None:
    """The target's stopwatch where the recipe asks for milliseconds; it remembers in the cache.

    Raises:
        TargetUnavailable: this machine is not the target, or its runtime does not work here.
    """
    if not by_latency(recipe):
        return None
    # Two networks take turns, which idle threads of a pool would disturb.
    threads = recipe.bench.threads or 1
    known = default_folder() / STAGES / LATENCY  # layers take as long in the next network
    lower = recipe.quantize
    ships_int8 = lower.enabled and lower.precision == "int8" and "int8" in target.precisions
    return Latency(
        target,
        options.channel_multiple,
        known,
        threads,
        precision="int8" if ships_int8 else "fp32",
    )
