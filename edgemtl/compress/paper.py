"""PAGCP as published: the linear scan that the fast search is compared with.

From the specification (design/papers/pagcp.md, section 2), with its two defects mended: a unit
that never violates the constraint is committed at the last ratio instead of being dropped, and the
masks found are the masks applied. Units are ordered by what removing 30 % saves of the whole
network; channels go by their L1 norm; every ratio of 5, 10, ... 95 % is judged on all pictures with
a network that is really cut; widths are what the ratios give, without rounding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import losses_of
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.compensation.check import cut_to_judge
from edgemtl.compress.context import ChannelSelection, PruneContext, register_method
from edgemtl.compress.cost import Keep
from edgemtl.compress.importance import l1_importance
from edgemtl.compress.remote import cut_losses
from edgemtl.compress.results import GroupStep
from edgemtl.compress.search_cost import SearchCost
from edgemtl.compress.taylor import keep_most_important
from edgemtl.compress.tolerances import Tolerances
from edgemtl.files import write_atomically

_log = logging.getLogger(__name__)

#: units are ordered by what removing this share of their channels saves
PROBE_SHARE = 0.3
RATIOS = np.linspace(0.05, 0.95, 19)
#: the published setting for COCO
PAPER_BUDGET, PAPER_FIRST = 6.0, 0.06


class PaperSearch:
    """One sweep over all units; see the module's text."""

    def __init__(self, context: PruneContext) -> None:
        self.context = context
        self.names = [task.name for task in context.network.tasks]
        self.keep = dict(context.all_kept)
        self.steps: list[GroupStep] = []
        self.spent = SearchCost()
        self.done: list[str] = []
        options = context.options
        budgets = {name: options.budgets.get(name, PAPER_BUDGET) for name in self.names}
        first = dict(options.first_tolerance)
        if not options.budgets:
            first = dict.fromkeys(self.names, PAPER_FIRST) | first
        self.tolerances = Tolerances.plan(len(context.groups), budgets, first or None)
        self.dense = self.reference = np.zeros(len(self.names))

    def run(self) -> None:
        """Scan every unit; goes on from the stored state when there is one."""
        if not self._resume():
            self.dense = self._losses(self.keep)
            self.reference = self.dense.copy()
        for name in self._order():
            if self.context.goals.reached(self.context.cost.of(self.keep), self.context.dense):
                break
            if name not in self.done:
                self._unit(name)
                self.done.append(name)
                self._save()

    def _order(self) -> list[str]:
        """By what removing 30 % of a unit saves, largest first when the tolerances shrink."""
        context = self.context
        saving = {}
        for group in context.groups:
            keep = torch.arange(group.width) >= int(PROBE_SHARE * group.width)
            saving[group.name] = context.cost.of({}).macs - context.cost.of({group.name: keep}).macs
        sign = -1 if self.tolerances.largest_first else 1
        return sorted(saving, key=lambda name: (sign * saving[name], name))

    def _losses(self, keep: Keep) -> NDArray[np.float64]:
        """(tasks,) mean losses over all held-out pictures of the network cut to these masks."""
        context, started = self.context, time.monotonic()
        if context.workers is None:
            smaller = cut_to_judge(context, keep, {})
            found = [losses_of(smaller, batch) for batch in context.batches]
        else:
            found = cut_losses(context.workers, keep, len(context.batches))
        losses = np.concatenate(found)
        labelled = (losses != 0).sum(axis=0)
        spent = SearchCost(
            int(context.cost.of(keep).macs) * len(losses),
            len(losses),
            1,
            time.monotonic() - started,
        )
        self.spent = self.spent.plus(spent)
        return np.asarray(losses.sum(axis=0) / np.maximum(labelled, 1), np.float64)

    def _unit(self, name: str) -> None:
        context = self.context
        group = context.by_name[name]
        masked = MaskedNetwork(context.network, context.groups)
        for other, mask in self.keep.items():
            masked.set_mask(other, mask)
        importance = l1_importance(context.network, group, masked.overrides())
        whole = torch.ones(group.width, dtype=torch.bool)
        best: tuple[Tensor, NDArray[np.float64]] | None = None
        sensitive, checks = "", 0
        seen = {group.width}
        for ratio in RATIOS:
            width = max(1, group.width - int(ratio * group.width))
            if width in seen:
                continue
            seen.add(width)
            mask = keep_most_important(importance, whole, width)
            losses = self._losses({**self.keep, name: mask})
            checks += 1
            excess = losses / self.reference - (1 + self.tolerances.now)
            if not (excess <= 0).all():
                sensitive = self.names[int(np.argmax(np.nan_to_num(excess, nan=np.inf)))]
                break
            best = mask, losses
        if best is None:
            return
        before = context.cost.of(self.keep)
        last = self.steps[-1].loss_ratio if self.steps else dict.fromkeys(self.names, 1.0)
        self.keep[name], losses = best
        self.reference = np.maximum(self.reference, losses)
        self.tolerances.committed()
        after = context.cost.of(self.keep)
        ratio_of = {
            task: float(now / dense)
            for task, now, dense in zip(self.names, losses, self.dense, strict=True)
        }
        rises = {task: ratio_of[task] - last[task] for task in self.names}
        self.steps.append(
            GroupStep(
                group=name,
                tasks=group.tasks,
                width_before=group.width,
                width_after=int(best[0].sum()),
                macs_saved=before.macs - after.macs,
                params_saved=before.params - after.params,
                latency_saved_ms=None,
                loss_rise=rises,
                sensitive_task=sensitive or max(rises, key=lambda task: rises[task]),
                checks=checks,
                images=checks * sum(batch.count for batch in context.batches),
                macs_share=after.macs / context.dense.macs,
                loss_ratio=ratio_of,
            )
        )
        _log.info(
            f"{name}: {group.width} -> {int(best[0].sum())}, "
            f"{100 * after.macs / context.dense.macs:.1f} % of MACs left"
        )

    def _save(self) -> None:
        if self.context.state is None:
            return
        state: dict[str, Any] = {
            "keep": dict(self.keep),
            "done": list(self.done),
            "steps": [step.to_dict() for step in self.steps],
            "spent": self.spent.to_dict(),
            "dense": torch.from_numpy(self.dense.copy()),
            "reference": torch.from_numpy(self.reference.copy()),
            "now": torch.from_numpy(self.tolerances.now.copy()),
        }
        write_atomically(self.context.state / "paper.pt", lambda stream: torch.save(state, stream))

    def _resume(self) -> bool:
        path = None if self.context.state is None else self.context.state / "paper.pt"
        if path is None or not path.is_file():
            return False
        state: Mapping[str, Any] = torch.load(path, weights_only=True)
        self.keep, self.done = dict(state["keep"]), list(state["done"])
        self.steps = [GroupStep.from_dict(step) for step in state["steps"]]
        self.spent = SearchCost.from_dict(state["spent"])
        self.dense, self.reference = state["dense"].numpy(), state["reference"].numpy()
        self.tolerances.now = state["now"].numpy()
        return True


@register_method("pagcp-paper")
def pagcp_paper(context: PruneContext) -> ChannelSelection:
    """The published linear scan; with a goal it ends when that is reached."""
    search = PaperSearch(context)
    search.run()
    ratio = search.steps[-1].loss_ratio if search.steps else {}
    return ChannelSelection(
        search.keep, steps=tuple(search.steps), loss_ratio=ratio, spent=search.spent
    )
