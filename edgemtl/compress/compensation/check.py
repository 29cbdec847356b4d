"""Places on the path as they really are: cut, compensated, judged on held-out pictures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.compensation.moments import Moments
from edgemtl.compress.compensation.solve import Compensation, compensated, solve
from edgemtl.compress.context import PruneContext
from edgemtl.compress.held_out import Judged
from edgemtl.compress.norm_folding import fold_norms
from edgemtl.compress.remote import remote_verdicts
from edgemtl.compress.search_cost import SearchCost
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Masks, judged.

    Attributes:
        keep: group -> mask.
        compensation: the weights that go with them.
        judged: on the held-out pictures.
        loss_ratio: (tasks,) held-out loss over the dense one; for a task without labels 1 + the
            distance from the dense network's answers.
        drop: (tasks,) how much worse the primary figure is, relative to the dense network's; NaN
            where it cannot be measured.
    """

    keep: dict[str, Tensor]
    compensation: Compensation
    judged: Judged
    loss_ratio: NDArray[np.float64]
    drop: NDArray[np.float64]


class Checks:
    """Judges masks.

    Attributes:
        dense: the network before anything is removed.
        spent: cost so far.

    Args:
        context: whose network and pictures.
        moments: of the network.
    """

    def __init__(self, context: PruneContext, moments: Moments) -> None:
        self._context, self._moments = context, moments
        self.spent = SearchCost()
        self._apart: tuple[str, ...] = ()
        self._known: dict[str, tuple[Judged, SearchCost]] = {}
        self._counted: set[str] = set()
        self._path = None if context.evidence is None else context.evidence / "judged.pt"
        self._load()
        tasks = context.network.tasks
        first = self._judged({}, {})
        self._apart = tuple(
            task.name for task, loss in zip(tasks, first.losses, strict=True) if loss == 0
        )
        self.dense = first

    @property
    def notes(self) -> list[str]:
        """What the reader must know of the judges."""
        return [
            f"no held-out picture has a label of task '{name}': it is judged by how far its "
            "answers are from the dense network's"
            for name in self._apart
        ]

    def place(self, keep: Mapping[str, Tensor]) -> Place:
        """Cut, compensate and judge."""
        context = self._context
        found = Compensation.none(len(self.dense.losses))
        if context.options.compensate:
            found = solve(context.network, context.groups, keep, self._moments)
        judged = self._judged(keep, found.weights)
        labelled = self.dense.losses != 0
        ratio = np.where(
            labelled,
            judged.losses / np.where(labelled, self.dense.losses, 1.0),
            1.0 + judged.distances,
        )
        drop = np.array(
            [
                task.primary.relative_drop(float(before), float(after))
                if np.isfinite(before)
                else np.nan
                for task, before, after in zip(
                    context.network.tasks, self.dense.figures, judged.figures, strict=True
                )
            ]
        )
        return Place(dict(keep), found, judged, ratio, drop)

    def _judged(self, keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Judged:
        """As judged before this run was killed, or anew."""
        removed = {name: (~mask).nonzero().flatten().tolist() for name, mask in keep.items()}
        # The weights follow from the masks, where they are solved again.
        key = json.dumps([removed, self._apart, bool(weights)], sort_keys=True)
        if key not in self._known:
            found, spent = self._afresh(keep, weights)
            self._known[key] = found, spent
            self._save()
        found, spent = self._known[key]
        if key not in self._counted:
            self._counted.add(key)
            self.spent = self.spent.plus(spent)
        return found

    def _save(self) -> None:
        if self._path is None:
            return
        content = {
            key: {
                "losses": torch.from_numpy(one.losses.copy()),
                "distances": torch.from_numpy(one.distances.copy()),
                "figures": torch.from_numpy(one.figures.copy()),
                "spent": spent.to_dict(),
            }
            for key, (one, spent) in self._known.items()
        }
        write_atomically(self._path, lambda stream: torch.save(content, stream))

    def _load(self) -> None:
        if self._path is None or not self._path.is_file():
            return
        stored: dict[str, Any] = torch.load(self._path, weights_only=True)
        for key, one in stored.items():
            judged = Judged(*(one[part].numpy() for part in ("losses", "distances", "figures")))
            self._known[key] = judged, SearchCost.from_dict(one["spent"])
        _log.info(f"the search goes on after {len(stored)} looks at held-out pictures")

    def _afresh(
        self, keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> tuple[Judged, SearchCost]:
        context, started = self._context, time.monotonic()
        held_out = context.held_out
        count = len(held_out.batches)
        if context.workers is not None and held_out.divisible:
            verdicts = remote_verdicts(context.workers, keep, weights, self._apart, count)
        else:
            network = cut_to_judge(context, keep, weights)
            verdicts = [
                held_out.judge(network, index, self._apart, context.network)
                for index in range(count)
            ]
        images = sum(batch.count for batch in held_out.batches)
        macs = int(context.cost.of(keep).macs) * images
        return held_out.summary(verdicts), SearchCost(macs, images, 1, time.monotonic() - started)


def cut_to_judge(
    context: PruneContext, keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> MultiTaskNetwork:
    """A network with these weights, cut to these masks, norms folded; a farm judges by the same."""
    found = (
        cut(compensated(context.network, weights), keep, context.groups)
        if keep
        else context.network
    )
    return fold_norms(found, context.calibration.images)[0]
