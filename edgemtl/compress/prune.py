"""Pruning from end to end: search, cut, recover, in rounds, resumable; one entry for all methods.

``prune(network, data, options)`` is what the command line and the pipeline call. A method decides
which channels go (``context.py``); what is common to all lies here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.best_round import BestRound, furthest_over
from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.whole import check_patterns
from edgemtl.compress.compensation.method import compensate
from edgemtl.compress.compensation.solve import compensated
from edgemtl.compress.context import (
    METHODS,
    ChannelSelection,
    PruneContext,
    PruneOptions,
)
from edgemtl.compress.cost import Cost, Goals
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency_model import Latency
from edgemtl.compress.outcome import PruneResult, Round
from edgemtl.compress.reach import Reach
from edgemtl.compress.recover import RecoverOptions, recover
from edgemtl.compress.recover.matched import Rows, matched_rows
from edgemtl.compress.remote import RemoteWorkers
from edgemtl.compress.run_or_resume import run_or_resume
from edgemtl.compress.shortfall import goals_of, sentence, what_stopped
from edgemtl.errors import StageFailed, UsageError
from edgemtl.exporting.module_cost import module_costs
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, load, save, weights_hash
from edgemtl.plugins import loaded, points, refused

_log = logging.getLogger(__name__)

#: steps of the recovery that the rounds before the last get, together
EARLY_ROUNDS_SHARE = 0.4
#: methods that judge by losses on held-out pictures
WITH_ORACLE = ("pagcp", "pagcp-paper")


def methods() -> list[str]:
    """Names of the methods, other packages' included (entry point ``edgemtl.pruning_methods``).

    Raises:
        UsageError: a package's method cannot be imported, or is none.
    """
    import edgemtl.compress.compensation.method
    import edgemtl.compress.knapsack
    import edgemtl.compress.methods
    import edgemtl.compress.paper  # noqa: F401 - importing them registers the methods

    for point in points("edgemtl.pruning_methods"):
        if point.name not in METHODS:
            method = loaded(point)
            if not callable(method):
                raise refused(point)
            METHODS.setdefault(point.name, method)
    return sorted(METHODS)


def method_module(name: str) -> str:
    """The module that a method comes from.

    Raises:
        UsageError: there is no such method.
    """
    if name not in methods():
        known = ", ".join(methods())
        raise UsageError(f"there is no pruning method '{name}'", hint=f"one of {known}")
    return METHODS[name].__module__


def prune(
    network: MultiTaskNetwork,
    data: DataSplits,
    options: PruneOptions,
    state_dir: Path | None = None,
    latency: Latency | None = None,
    workers: Callable[[PruneContext], RemoteWorkers] | None = None,
) -> PruneResult:
    """Prune a network, and train it after each round when the options say so.

    Args:
        network: left as it is. A family's exact folds are applied first, where it was not pruned
            before (a record of a pruned network speaks of its unfolded layers).
        data: slices of training data.
        options: see :class:`PruneOptions`.
        state_dir: where to keep what is needed to go on after a kill; the same call goes on. Calls
            with other goals or methods share what is the same for all of them: the pass over the
            calibration pictures, and held-out pictures that were looked at.
        latency: orders steps by what they save on the target; needed for a latency goal.
        workers: opens processes that look at the held-out pictures for the search of a round; the
            result is that of this process alone where theirs compute as it does.

    Raises:
        UsageError: an unknown method, task or module, every group left whole, a latency goal
            without a table, or others for a method that has no use for them.
        StageFailed: the data says nothing about a task, or nothing can be cut.
    """
    if options.one_cut_first and options.rounds > 1:
        once = replace(options, rounds=1, one_cut_first=False)
        result = prune(network, data, once, state_dir, latency, workers)
        short = _falls_short(result, options)
        if not short:
            return result
        note = f"one cut {short}, so it was cut in {options.rounds} rounds"
        _log.info(note)
        options = replace(options, one_cut_first=False)
        result = prune(network, data, options, state_dir, latency, workers)
        return replace(result, notes=(note, *result.notes))
    method_module(options.method)
    if options.latency_ratio is not None and latency is None:
        raise UsageError("a latency goal needs a target to measure on", hint="give --target")
    if options.rounds > 1 and options.recovery is None:
        raise UsageError("several rounds need recovery training between them")
    if options.recovery is not None and data.recovery is None:
        raise UsageError("recovery training needs pictures to train on")
    if workers is not None and options.method not in WITH_ORACLE:
        raise UsageError(
            f"method '{options.method}' uses no held-out pictures, so a farm cannot help it",
            where="--farm",
            hint=f"one of {', '.join(WITH_ORACLE)}",
        )
    check_patterns(network, options.keep_whole, "keep_whole")
    check_patterns(network, options.only, "only")
    if state_dir is not None:
        refuse_old_states(state_dir)
    current = _starting_point(network, options)
    named = {*options.budgets, *options.most_drop}
    unknown = named - {task.name for task in current.tasks}
    if unknown:
        raise UsageError(f"a limit is for task '{sorted(unknown)[0]}', which is not pruned for")
    teacher = copy.deepcopy(current)
    folder = None
    if state_dir is not None:
        folder = state_dir / _fingerprint(current, data, options, latency)
    spec = current.input_spec
    prepared = (
        prepare_all(data.oracle, current.tasks, spec, options.seed),
        prepare_all(data.calibration, current.tasks, spec, options.seed),
    )
    dense: Cost | None = None
    cost: Cost | None = None
    rounds: list[Round] = []
    notes: list[str] = []
    table: LayerTable | None = None
    whole: dict[str, str] = {}
    floor = ""
    reach: Reach | None = None
    inside = BestRound(options.most_drop)
    rows: Rows | None = None
    for number in range(options.rounds):
        goals = _goals_of_round(options, number)
        where = None if folder is None else folder / f"round{number + 1}"
        if options.rounds > 1:
            _log.info(f"round {number + 1} of {options.rounds}")
        started = time.monotonic()
        context = PruneContext(current, prepared, options, goals, dense, where, latency, workers)
        if folder is not None and number == 0:
            context.evidence = folder.parent / _evidence_name(current, data, options)
        dense = context.dense
        if context.left_whole and not whole:
            _log.info(
                f"{len(context.left_whole)} groups left whole, {len(context.groups)} may be cut"
            )
        whole = context.left_whole
        if reach is None:
            reach = context.reach
            for line in reach.sentences():
                _log.info(line)
        try:
            found, seconds = run_or_resume(context, where, started, compensate)
        finally:
            context.close()
        if rounds and not _removes(found):
            smaller = copy.deepcopy(current).requires_grad_(True)
            notes.append(
                f"round {number + 1} removed nothing more within the budgets, only trained"
            )
            _log.info(notes[-1])
        else:
            smaller = _cut(context, found)
            if options.recovery is not None:
                solved = [*found.explained] if found.weights else []
                rows = matched_rows(context.network, found.keep, context.groups, solved, rows)
        # counted anew: the search takes products of activations (attention) for as large as before
        counted = module_costs(smaller)
        cost = replace(context.cost.of(found.keep), macs=counted.macs, params=counted.parameters)
        if context.latency is not None:
            table = table or context.latency.table
            assert dense.latency_ms is not None
            cost = replace(cost, latency_ms=found.latency[-1].ratio * dense.latency_ms)
        floor = found.stopped or what_stopped(context, found.keep, found.refused)
        del context  # and its pictures
        recovered = None
        if options.recovery is not None:
            assert data.recovery is not None
            recovered = recover(
                smaller,
                teacher,
                data.recovery,
                data.oracle,
                _recovery_of_round(options, number),
                None if where is None else where / "recovery.pt",
                rows,
            )
        rounds.append(
            Round(
                found.steps,
                {name: (len(mask), int(mask.sum())) for name, mask in found.keep.items()},
                cost,
                dict(found.loss_ratio),
                found.spent,
                seconds,
                recovered,
                found.refused,
                found.latency,
                dict(found.explained),
                dict(found.drops),
                dict(found.predicted),
            )
        )
        notes += [note for note in found.notes if note not in notes]
        current = smaller
        inside.see(number + 1, current, recovered)
    assert dense is not None and cost is not None
    kept = len(rounds)
    if inside.too_much is not None:
        if inside.network is not None:
            kept, current, cost = inside.round, inside.network, rounds[inside.round - 1].cost
        notes.append(inside.note(len(rounds), cost.macs / dense.macs, options.flops))
        _log.info(notes[-1])
    final = _goals_of_round(options, options.rounds - 1)
    reached = final.reached(cost, dense) if final.given else None
    outcome = goals_of(final.shares(cost, dense))
    if reached is not False or kept < len(rounds):
        floor = ""  # reached, or an earlier round was kept, of which a note speaks
    notes += [sentence(goal, floor) for goal in outcome if goal.missed and kept == len(rounds)]
    return PruneResult(
        current.eval(),
        options.method,
        dense,
        cost,
        tuple(rounds),
        kept,
        reached,
        tuple(notes),
        table,
        whole,
        outcome,
        floor,
        reach,
    )


def _falls_short(result: PruneResult, options: PruneOptions) -> str:
    """What one cut did not come to, a clause; empty where it came to all."""
    if result.goals_reached is False:
        return "missed a goal"
    recovery = result.rounds[-1].recovery
    over = None if recovery is None else furthest_over(recovery, options.most_drop)
    return "" if over is None else f"left '{over.task}' {over.drop:.1%} worse"


def _starting_point(network: MultiTaskNetwork, options: PruneOptions) -> MultiTaskNetwork:
    """A copy with the wanted tasks only and exact folds applied."""
    start = network
    if options.tasks is not None:
        wanted = [task.name for task in network.selected(options.tasks)]
        if len(wanted) < len(network.tasks):
            start = network.restricted(wanted)
    fold: Callable[[], MultiTaskNetwork] | None = getattr(start, "folded", None)
    if fold is not None and not start.pruning:
        return fold().eval()
    return copy.deepcopy(start).eval()


def _fingerprint(
    network: MultiTaskNetwork, data: DataSplits, options: PruneOptions, latency: Latency | None
) -> str:
    """A folder name that changes with everything that changes what a round does."""
    asked = options.to_dict()
    if options.recovery is not None:
        del asked["most_drop"]  # judges rounds that are done; may be another when a run goes on
    parts = [weights_hash(network), json.dumps(asked, sort_keys=True)]
    parts += [data.oracle.fingerprint(), data.calibration.fingerprint()]
    if latency is not None:
        parts.append(
            f"latency on {latency.target.name}, {latency.threads} threads, {latency.precision}"
        )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _evidence_name(network: MultiTaskNetwork, data: DataSplits, options: PruneOptions) -> str:
    """A folder name for what no goal, budget or method changes, so that all may share it."""
    asked = [options.seed, options.channel_multiple, options.keep_whole, options.only]
    parts = [weights_hash(network), json.dumps(asked)]
    parts += [data.oracle.fingerprint(), data.calibration.fingerprint()]
    return "evidence-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def refuse_old_states(folder: Path) -> None:
    """Half a search of before compensation cannot go on.

    Raises:
        UsageError: there is one.
    """
    for old in sorted(folder.glob("*/round*/search.pt")):
        raise UsageError(
            "there is an unfinished search of an earlier version, which cannot continue: pruning "
            "is now judged after compensation",
            where=str(old.parent),
            hint="start again (--fresh), or finish it with the version that began it",
        )


def _goals_of_round(options: PruneOptions, number: int) -> Goals:
    """Goals of a round: the way down is cut into equal factors."""
    power = (number + 1) / options.rounds

    def part(goal: float | None) -> float | None:
        return None if goal is None else goal**power

    return Goals(part(options.flops), part(options.params), part(options.latency_ratio))


def _recovery_of_round(options: PruneOptions, number: int) -> RecoverOptions:
    assert options.recovery is not None
    if options.rounds == 1:
        return options.recovery
    last = number == options.rounds - 1
    share = 1 - EARLY_ROUNDS_SHARE if last else EARLY_ROUNDS_SHARE / (options.rounds - 1)
    return replace(
        options.recovery,
        steps=max(1, round(options.recovery.steps * share)),
        seed=options.recovery.seed + number,
    )


def _removes(found: ChannelSelection) -> bool:
    return not all(bool(mask.all()) for mask in found.keep.values())


def _cut(context: PruneContext, found: ChannelSelection) -> MultiTaskNetwork:
    """Cut for good, compensated, and prove it: same answers, and it exports.

    Raises:
        ParityFailed: the cut network answers otherwise than the masked one.
        StageFailed: nothing was removed, or the cut network cannot be exported.
    """
    if not _removes(found):
        raise StageFailed(
            "no channel could be removed within the budgets"
            + (f": {found.stopped}" if found.stopped else ""),
            hint="raise the budgets, or lower the channel multiple",
        )
    network = compensated(context.network, found.weights)
    smaller = cut(network, found.keep, context.groups)
    check_cut(network, found.keep, smaller, context.calibration.images[:2], context.groups)
    context.check_export(found.keep)
    return smaller.requires_grad_(True)


def save_pruned(result: PruneResult, path: Path, meta: Mapping[str, Any] | None = None) -> None:
    """Write the pruned checkpoint, and prove that it loads again.

    Raises:
        StageFailed: the place cannot be written.
    """
    facts = {"pruning": json.loads(json.dumps(result.to_dict())), **(meta or {})}
    save(from_network(result.network, facts), path)
    load(path).network()
