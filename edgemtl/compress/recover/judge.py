"""Held-out pictures judge what is trained, with labels or by the dense network's answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from edgemtl.compress.answers import distance
from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import Batch, Prepared, each_batch, losses_per_image
from edgemtl.compress.recover.records import Verdict
from edgemtl.compress.task_shares import task_shares
from edgemtl.data.samples import Dataset
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.base import MultiTaskNetwork

#: pictures per batch
BATCH = 8
#: of pictures without labels of a task so many are held against the dense network's answers
UNLABELLED = 32


class HeldOutJudge:
    """Judges networks.

    Args:
        names: of the tasks that count.
        teacher: the dense network.
        held_out: pictures.
        seed: of the scales that the losses see them at.
        allowed: task -> largest drop that is allowed.
        figures: task -> the dense network's primary metric, where it is known already.
    """

    def __init__(
        self,
        names: Sequence[str],
        teacher: MultiTaskNetwork,
        held_out: Dataset,
        seed: int,
        allowed: Mapping[str, float],
        figures: Mapping[str, float] | None = None,
    ) -> None:
        self._names, self._teacher, self._held_out, self._seed = names, teacher, held_out, seed
        shares = task_shares(names, allowed)
        self.shares = dict(zip(names, (shares / shares.mean()).tolist(), strict=True))
        self.dense = dict(self._figures(teacher) if figures is None else figures)
        self._labelled = {name for name in names if not math.isnan(self.dense[name])}
        self._tasks = [teacher.task(name) for name in names]
        self._prepared: list[Prepared] = []

    def verdict(self, network: MultiTaskNetwork) -> Verdict:
        """Judge a network in eval mode; weights that are not finite have lost everything."""
        if not all(bool(p.isfinite().all()) for p in network.parameters()):
            drops = {name: math.inf for name in self._names if name in self._labelled}
            others = {name: math.inf for name in self._names if name not in self._labelled}
            return Verdict(dict.fromkeys(self._names, math.nan), drops, others, math.inf)
        figures = self._figures(network)
        drops = {
            task.name: task.primary.relative_drop(self.dense[task.name], figures[task.name])
            for task in self._tasks
            if task.name in self._labelled
        }
        distances = self._distances(network)
        lost = {**drops, **distances}
        score = max(lost[name] / self.shares[name] for name in self._names)
        return Verdict(figures, drops, distances, score)

    def losses(self, network: MultiTaskNetwork) -> dict[str, float]:
        """Task -> mean loss over the labelled pictures; without labels the distance."""
        found = self._distances(network)
        if self._labelled:
            losses = []
            for batch in self._batches(network, None):
                with torch.inference_mode():
                    outputs = network(batch.images, self._asked(network))
                losses.append(losses_per_image(outputs, batch, self._tasks))
            every = np.concatenate(losses)
            for column, name in enumerate(self._names):
                if name in self._labelled:
                    count = max(int((every[:, column] != 0).sum()), 1)
                    found[name] = float(every[:, column].sum() / count)
        return {name: found[name] for name in self._names}

    def _distances(self, network: MultiTaskNetwork) -> dict[str, float]:
        """Task without labels -> mean distance of its answers from the dense network's."""
        tasks = [task for task in self._tasks if task.name not in self._labelled]
        if not tasks:
            return {}
        asked, apart = self._asked(network), []
        for batch in self._batches(network, UNLABELLED):
            with torch.inference_mode():
                outputs = network(batch.images, asked)
                reference = self._teacher(batch.images, asked)
            columns = [distance(task, outputs, reference)[: batch.count] for task in tasks]
            apart.append(np.stack(columns, axis=1))
        every = np.concatenate(apart)
        return {task.name: float(every[:, column].mean()) for column, task in enumerate(tasks)}

    def _asked(self, network: MultiTaskNetwork) -> list[str]:
        return [task.name for task in network.selected(list(self._names))]

    def _batches(self, network: MultiTaskNetwork, most: int | None) -> Iterator[Batch]:
        if not self._prepared:
            spec = self._teacher.input_spec
            self._prepared = prepare_all(self._held_out, self._tasks, spec, self._seed)
        return each_batch(self._prepared[:most], self._tasks, network.input_spec.size, BATCH)

    def _figures(self, network: MultiTaskNetwork) -> dict[str, float]:
        tasks = network.selected(list(self._names))
        report = evaluate(
            network_runner(network, [task.name for task in tasks]),
            tasks,
            network.input_spec,
            self._held_out,
        )
        found = {}
        for name in self._names:
            value = report.tasks[name].values[network.task(name).primary.key]
            found[name] = math.nan if value is None else value
        return found
