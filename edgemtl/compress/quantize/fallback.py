"""Bring every task inside its budget by leaving layers in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from edgemtl.compress.quantize.judge import Judge
from edgemtl.compress.quantize.layers import Layer, regions
from edgemtl.compress.quantize.results import Culprit, QuantizeOptions, TaskVerdict
from edgemtl.compress.quantize.search import excess, failing, fewest, rank
from edgemtl.compress.quantize.writers import Writer

_log = logging.getLogger(__name__)

#: regions whose cost is estimated; larger networks are grouped more coarsely
MOST_REGIONS = 128


@dataclass(frozen=True)
class Outcome:
    """What stays in float32, and what was measured.

    Attributes:
        writer: what writes it; another one than was given where weights were trained.
        kept: node name of a layer -> why.
        culprits: regions by cost, dearest first; empty when nothing had to be ranked.
        verdicts: task name -> what it loses.
        evaluations: runs over all judge pictures.
    """

    writer: Writer
    kept: Mapping[str, str]
    culprits: tuple[Culprit, ...] = ()
    verdicts: Mapping[str, TaskVerdict] = field(default_factory=dict)
    evaluations: int = 0


def keep_budgets(
    make_judge: Callable[[], Judge],
    writer: Writer,
    layers: Sequence[Layer],
    forced: Mapping[str, str],
    cost: Callable[[Writer, Mapping[str, Collection[str]]], dict[str, dict[str, float]]],
    train: Callable[[Sequence[str]], Writer] | None,
    options: QuantizeOptions,
) -> Outcome:
    """Quantise everything; where a task loses too much, train, then find the fewest to leave.

    Args:
        make_judge: measures the float32 network, then judges others.
        writer: writes choices.
        layers: all layers.
        forced: node name -> why, of layers that stay in float32 in any case.
        cost: a writer, and region name -> its layers' node names, to region name -> task -> cost.
        train: tasks that are over budget, to a writer with trained weights; None for no training.
        options: budgets and number of evaluations.
    """
    judge = make_judge()
    full = judge(writer.write(forced))
    _log.info(f"all in {options.precision}: {told(full)}")
    # A task that cannot be judged is not helped by leaving layers in float32.
    late = [name for name in failing(full) if full[name].drop is not None]
    if late and train is not None:
        trained = train(late)
        after = judge(trained.write(forced))
        _log.info(f"after training: {told(after)}")
        if excess(after) < excess(full):
            writer, full = trained, after
            late = [name for name in failing(full) if full[name].drop is not None]
        else:
            _log.info("training did not help and is left out")
    if not late:
        return Outcome(writer, forced, (), full, judge.evaluations)
    grouped = regions([layer for layer in layers if layer.node not in forced], MOST_REGIONS)
    nodes = {name: [layer.node for layer in group] for name, group in grouped.items()}
    costs = cost(writer, nodes)
    order = rank(costs, late)

    def attempt(kept: Sequence[str]) -> Mapping[str, TaskVerdict]:
        verdicts = judge(writer.write({*forced, *(n for name in kept for n in nodes[name])}))
        _log.info(f"{len(kept)} of {len(nodes)} regions in float32: {told(verdicts)}")
        return verdicts

    found = fewest(order, attempt, full, options.max_evaluations - judge.evaluations)
    culprits = _shares(order, costs, grouped, found.kept)
    kept = dict(forced)
    for row in culprits:
        if row.kept:
            worst = max(late, key=row.costs.__getitem__)
            reason = f"{row.costs[worst]:.0%} of what quantising costs task '{worst}'"
            kept |= dict.fromkeys(nodes[row.region], reason)
    return Outcome(writer, kept, culprits, found.verdicts, judge.evaluations)


def _shares(
    order: Sequence[str],
    costs: Mapping[str, Mapping[str, float]],
    grouped: Mapping[str, Sequence[Layer]],
    kept: Collection[str],
) -> tuple[Culprit, ...]:
    """Costs as shares of each task's sum."""
    tasks = list(next(iter(costs.values()), {}))
    totals = {task: sum(max(cost[task], 0) for cost in costs.values()) for task in tasks}
    return tuple(
        Culprit(
            name,
            tuple(dict.fromkeys(layer.module for layer in grouped[name])),
            {
                task: max(costs[name][task], 0) / totals[task] if totals[task] > 0 else 0.0
                for task in tasks
            },
            name in kept,
        )
        for name in order
    )


def told(verdicts: Mapping[str, TaskVerdict]) -> str:
    """Relative drops in a line."""
    return ", ".join(
        f"{name} {'not judged' if verdict.drop is None else f'{verdict.drop:+.2%}'}"
        for name, verdict in verdicts.items()
    )
