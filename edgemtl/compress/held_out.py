"""Held-out pictures judge networks: every task's loss, its figure, or how far answers moved.

Pictures are judged in batches of one size, wherever that is done: in this process, or by others
(:mod:`edgemtl.compress.remote`), whose verdicts are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.answers import distance
from edgemtl.compress.batches import Batch, Prepared, losses_per_image
from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.measure.accuracy import decode_all
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks.base import Metric, Task

#: of pictures without labels of a task so many batches are looked at: answers are kept of them
UNLABELLED_BATCHES = 4


@dataclass
class Verdict:
    """One batch.

    Attributes:
        losses: (count, tasks), exactly 0 where there is no label.
        distances: (count, tasks) how far the answers are from the dense network's, see
            :func:`edgemtl.compress.answers.distance`; 0 where that was not asked.
        found: task -> what its metric found, see :meth:`edgemtl.tasks.base.Metric.state`.
    """

    losses: NDArray[np.float64]
    distances: NDArray[np.float64]
    found: dict[str, dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Judged:
    """A network on all held-out pictures.

    Attributes:
        losses: (tasks,) mean over the pictures with labels; 0 for a task without any.
        distances: (tasks,) mean distance from the dense network's answers; 0 where not asked.
        figures: (tasks,) the primary figure of each; NaN where nothing could be measured.
    """

    losses: NDArray[np.float64]
    distances: NDArray[np.float64]
    figures: NDArray[np.float64]


class HeldOutEvaluator:
    """The pictures, batch by batch.

    Args:
        tasks: that are judged.
        batches: of the pictures.
        images: the same, one by one.
        size: canvas (height, width).
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        images: Sequence[Prepared],
        size: tuple[int, int],
    ) -> None:
        self.tasks, self.batches, self._images = tuple(tasks), list(batches), list(images)
        self._view = View(1.0, 0.0, 0.0, size, size)
        self._blank = np.zeros((*size, 3), np.uint8)
        self._dense: dict[int, dict[str, Tensor]] = {}

    @property
    def divisible(self) -> bool:
        """Whether every task can be measured in parts."""
        return all(task.new_metric().found for task in self.tasks)

    def judge(
        self, network: MultiTaskNetwork, index: int, apart: Sequence[str], dense: MultiTaskNetwork
    ) -> Verdict:
        """Judge a batch.

        Args:
            network: to judge.
            index: of the batch.
            apart: tasks whose answers are held against the dense network's.
            dense: that network.
        """
        batch = self.batches[index]
        with torch.inference_mode():
            outputs = network(batch.images)
            losses = losses_per_image(outputs, batch, self.tasks)
        distances = np.zeros_like(losses)
        if apart and index < UNLABELLED_BATCHES:
            reference = self._answers(index, dense)
            for column, task in enumerate(self.tasks):
                if task.name in apart:
                    distances[:, column] = distance(task, outputs, reference)[: batch.count]
        metrics = {task.name: task.new_metric() for task in self.tasks}
        self._measure(outputs, index, metrics)
        found = {name: metric.state() for name, metric in metrics.items()}
        return Verdict(losses, distances, found)

    def summary(self, verdicts: Sequence[Verdict]) -> Judged:
        """All batches together, which are given in their order."""
        losses = np.concatenate([one.losses for one in verdicts])
        distances = np.concatenate([one.distances for one in verdicts[:UNLABELLED_BATCHES]])
        labelled = np.maximum((losses != 0).sum(axis=0), 1)
        figures = []
        for task in self.tasks:
            metric = task.new_metric()
            for one in verdicts:
                metric.add(one.found[task.name])
            value = metric.result().values.get(task.primary.key) if metric.found else None
            figures.append(np.nan if value is None else value)
        return Judged(losses.sum(axis=0) / labelled, distances.mean(axis=0), np.array(figures))

    def _measure(
        self, outputs: Mapping[str, Tensor], index: int, metrics: Mapping[str, Metric]
    ) -> None:
        arrays = {name: value.float().numpy() for name, value in outputs.items()}
        start = index * len(self.batches[0].images)
        for place in range(self.batches[index].count):
            image = self._images[start + place]
            own = {name: value[place] for name, value in arrays.items()}
            decoded = decode_all(self.tasks, own, self._view)
            sample = Sample(str(start + place), self._blank, image.labels)
            for metric in metrics.values():
                metric.update(decoded, sample)

    def _answers(self, index: int, dense: MultiTaskNetwork) -> dict[str, Tensor]:
        if index not in self._dense:
            with torch.inference_mode():
                self._dense[index] = dict(dense(self.batches[index].images))
        return self._dense[index]
