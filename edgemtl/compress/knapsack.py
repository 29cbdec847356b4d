"""Pruning as a knapsack: the most saliency that fits into a latency or MAC budget.

The idea of HALP (Shen et al., NeurIPS 2022) with the saliency of the worst task, solved exactly by
``scipy.optimize.milp``: one width per group, its value the saliency of the channels it keeps, its
weight what it costs. A layer's cost is a product of two widths, which a knapsack cannot express, so
costs are linear around the present widths and the problem is solved again from where it led.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.context import ChannelSelection, PruneContext, register_method
from edgemtl.compress.cost import Cost
from edgemtl.compress.taylor import Scores, keep_most_important
from edgemtl.errors import StageFailed, UsageError

#: how often costs are made linear anew
PASSES = 12
#: a pass goes at most this share of the way that is left
STRIDE = 0.35


@register_method("knapsack")
def knapsack(context: PruneContext) -> ChannelSelection:
    """The widths that keep the most worst-task saliency within the goals.

    Raises:
        UsageError: there is no goal, which is the knapsack's size.
        StageFailed: even the smallest widths do not reach the goals.
    """
    if not context.goals.given:
        raise UsageError("method 'knapsack' needs a goal", hint="give --flops, 0.4 for example")
    scores, spent = context.score(context.all_kept)
    importance = _worst_task(scores)
    smallest = {name: _mask(importance[name], min(context.choices[name])) for name in importance}
    if not context.goals.reached(context.cost.of(smallest), context.dense):
        raise StageFailed(
            "even the smallest widths do not reach the goals",
            hint="raise the goals, or lower the channel multiple",
        )
    keep = dict(context.all_kept)
    for number in range(PASSES):
        if context.goals.reached(context.cost.of(keep), context.dense):
            break
        keep = _solve(context, importance, keep, last=number == PASSES - 1)
    if not context.goals.reached(context.cost.of(keep), context.dense):
        keep = _shrink(context, importance, keep)
    return ChannelSelection(keep, spent=spent)


def _worst_task(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Importance per group: the largest over tasks of its share of that task's total saliency."""
    total = sum(value.sum(axis=1) for value in scores.values())
    scale = np.maximum(np.asarray(total), 1e-30)
    return {name: (value / scale[:, None]).max(axis=0) for name, value in scores.items()}


def _mask(importance: NDArray[np.float64], width: int) -> Tensor:
    whole = torch.ones(len(importance), dtype=torch.bool)
    return keep_most_important(importance, whole, width)


def _shares(context: PruneContext, cost: Cost) -> NDArray[np.float64]:
    return np.array([now for now, _ in context.goals.shares(cost, context.dense).values()])


def _solve(
    context: PruneContext,
    importance: dict[str, NDArray[np.float64]],
    keep: dict[str, Tensor],
    last: bool,
) -> dict[str, Tensor]:
    """One knapsack with costs linear around ``keep``."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    now = _shares(context, context.cost.of(keep))
    wanted = np.array([w for _, w in context.goals.shares(context.dense, context.dense).values()])
    limit = wanted if last else np.maximum(wanted, now - STRIDE * (now - wanted).max())
    values, weights, owner, options = [], [], [], []
    for number, name in enumerate(importance):
        alive = int(keep[name].sum())
        ranked = np.sort(importance[name])[::-1].cumsum()
        for width in [w for w in context.choices[name] if w <= alive]:
            mask = keep[name] if width == alive else _mask(importance[name], width)
            cost = _shares(context, context.cost.of({**keep, name: mask}))
            values.append(ranked[width - 1])
            weights.append(cost - now)
            owner.append(number)
            options.append((name, mask))
    count = len(options)
    belongs = np.zeros((len(importance), count))
    belongs[owner, np.arange(count)] = 1.0
    found = milp(
        -np.array(values),
        constraints=[
            LinearConstraint(belongs, 1, 1),
            LinearConstraint(np.array(weights).T, -np.inf, limit - now),
        ],
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
    )
    if found.x is None:
        return _shrink(context, importance, keep)
    chosen = dict(keep)
    for taken, (name, mask) in zip(found.x, options, strict=True):
        if taken > 0.5:
            chosen[name] = mask
    return chosen


def _shrink(
    context: PruneContext, importance: dict[str, NDArray[np.float64]], keep: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Step down, the least saliency per saving first, until the goals are reached."""
    keep = dict(keep)
    while not context.goals.reached(context.cost.of(keep), context.dense):
        before = context.cost.of(keep)
        best: tuple[float, str, Tensor] | None = None
        for name, values in importance.items():
            alive = int(keep[name].sum())
            width = max((w for w in context.choices[name] if w < alive), default=0)
            if not width:
                continue
            mask = _mask(values, width)
            saved = context.goals.saving(
                before, context.cost.of({**keep, name: mask}), context.dense
            )
            lost = float(values[(keep[name] & ~mask).numpy()].sum())
            if saved > 0 and (best is None or lost / saved < best[0]):
                best = lost / saved, name, mask
        assert best is not None  # the smallest widths reach the goals
        keep[best[1]] = best[2]
    return keep
