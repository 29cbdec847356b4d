"""The pruning methods that PAGCP is compared with, by name."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Batch
from edgemtl.compress.context import ChannelSelection, PruneContext, register_method
from edgemtl.compress.cost import Keep
from edgemtl.compress.importance import library_importance
from edgemtl.compress.search_cost import SearchCost
from edgemtl.errors import UsageError

#: steps of the bisection for the share to remove
BISECTIONS = 40


@register_method("l1-uniform")
def l1_uniform(context: PruneContext) -> ChannelSelection:
    """The same share of every group, smallest weights first; scores by Torch-Pruning."""
    import torch_pruning

    scored = _library(context, torch_pruning.importance.MagnitudeImportance(p=1), [])

    def masks(share: float) -> dict[str, Tensor]:
        return {
            name: _top(context, name, values, round(len(values) * (1 - share)))
            for name, values in scored.importance.items()
        }

    return _to_goal(context, masks, scored)


@register_method("l1-global")
def l1_global(context: PruneContext) -> ChannelSelection:
    """Smallest weights of the whole network; scores, relative to their group, by Torch-Pruning."""
    import torch_pruning

    return _global(
        context, _library(context, torch_pruning.importance.MagnitudeImportance(p=1), [])
    )


@register_method("taylor-global")
def taylor_global(context: PruneContext) -> ChannelSelection:
    """Smallest first-order effect of weights on the sum of all losses; scores by Torch-Pruning."""
    import torch_pruning

    criterion = torch_pruning.importance.TaylorImportance(normalizer=None)
    return _global(context, _library(context, criterion, context.saliency_batches))


@dataclass(frozen=True)
class Scored:
    """Importance per group and unit, what it cost, and what to say about it."""

    importance: dict[str, NDArray[np.float64]]
    spent: SearchCost = field(default_factory=SearchCost)
    notes: tuple[str, ...] = ()


def _library(context: PruneContext, criterion: Any, batches: list[Batch]) -> Scored:
    """Torch-Pruning's scores, after gradients of all losses over ``batches`` were added up."""
    started = time.monotonic()
    network = copy.deepcopy(context.network).requires_grad_(True)
    for batch in batches:
        outputs = network(batch.images)
        losses = [task.loss(outputs, batch.whole[task.name]) for task in network.tasks]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    found, missing = library_importance(network, context.groups, criterion)
    images = sum(len(batch.images) for batch in batches)
    # A backward pass costs two forward ones.
    macs = 3 * images * int(context.cost.of({}).macs)
    notes: tuple[str, ...] = ()
    if missing:
        notes = (f"Torch-Pruning has no score for {len(missing)} group(s): our L1 norm was used",)
    return Scored(found, SearchCost(macs, images, 0, time.monotonic() - started), notes)


@register_method("unanimous")
def unanimous(context: PruneContext) -> ChannelSelection:
    """A channel goes only when every task finds it unimportant.

    The idea of DiSparse (Sun et al., CVPR 2022) on channels: importance is the best rank that a
    channel has for any task, so that no task alone can give it up.
    """
    scores, spent = context.score(context.all_kept)
    names = list(scores)
    tasks = len(next(iter(scores.values())))
    ranks = []
    for task in range(tasks):
        flat = np.concatenate([scores[name][task] for name in names])
        ranks.append(flat.argsort().argsort() / max(len(flat) - 1, 1))
    best = np.max(ranks, axis=0)
    ends = np.cumsum([scores[name].shape[1] for name in names])[:-1]
    return _global(context, Scored(dict(zip(names, np.split(best, ends), strict=True)), spent))


def _top(context: PruneContext, name: str, importance: NDArray[np.float64], wanted: int) -> Tensor:
    """The most important units of a group, as many as the next allowed width from ``wanted`` up."""
    width = min((w for w in context.choices[name] if w >= wanted), default=len(importance))
    keep = torch.zeros(len(importance), dtype=torch.bool)
    order = np.argsort(-importance, kind="stable")[:width]
    keep[torch.from_numpy(order.copy())] = True
    return keep


def _global(context: PruneContext, scored: Scored) -> ChannelSelection:
    everything = np.sort(np.concatenate(list(scored.importance.values())))

    def masks(share: float) -> dict[str, Tensor]:
        threshold = everything[min(int(share * len(everything)), len(everything) - 1)]
        return {
            name: _top(context, name, values, int((values >= threshold).sum()))
            for name, values in scored.importance.items()
        }

    return _to_goal(context, masks, scored)


def _to_goal(
    context: PruneContext, masks: Callable[[float], Keep], scored: Scored
) -> ChannelSelection:
    """The smallest share to remove that reaches the goals.

    Raises:
        UsageError: there is no goal to reach.
    """
    if not context.goals.given:
        raise UsageError(
            f"method '{context.options.method}' needs a goal", hint="give --flops, 0.4 for example"
        )
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if context.goals.reached(context.cost.of(masks(middle)), context.dense):
            high = middle
        else:
            low = middle
    keep = dict(masks(high))
    if all(bool(mask.all()) for mask in keep.values()):
        keep = dict(masks(1.0))
    return ChannelSelection(keep, spent=scored.spent, notes=scored.notes)
