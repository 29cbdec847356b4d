"""Batches of training pictures, drawn and augmented beside the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import numpy as np

from edgemtl.compress.augmentation import random_view
from edgemtl.compress.batches import Prepared
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset, Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import Task

#: decoded pictures are kept in memory up to this
IMAGE_BYTES = 1_500_000_000


class TrainLoader:
    """Random training pictures; decoded ones are kept while memory allows.

    Args:
        dataset: one data set, or several as one.
        tasks: that learn from it.
        spec: canvas and normalisation to train on.
        batch: pictures per step.
        seed: batch ``i`` depends on it and on ``i`` only.

    Raises:
        InputRefused: there is no picture, or (when a batch is drawn) none decodes.
    """

    def __init__(
        self, dataset: Dataset, tasks: Sequence[Task], spec: InputSpec, batch: int, seed: int
    ) -> None:
        # Each of several data sets is drawn from equally often, however large it is.
        parts: Sequence[Dataset] = getattr(dataset, "parts", (dataset,))
        self._parts = [part for part in parts if len(part)]
        self._tasks, self._spec, self._batch, self._seed = tasks, spec, batch, seed
        self._kept: dict[tuple[int, int], Sample | None] = {}
        self._bytes = 0
        if not self._parts:
            raise InputRefused("there is no picture to train on", where=dataset.name)

    def batch(self, step: int) -> list[Prepared]:
        """The pictures of one step."""
        rng = np.random.default_rng([self._seed, step])
        found: list[Prepared] = []
        tries = 0
        while len(found) < self._batch:
            part = int(rng.integers(len(self._parts)))
            index = int(rng.integers(len(self._parts[part])))
            sample = self._sample(part, index)
            tries += 1
            if sample is not None:
                found.append(random_view(sample, self._tasks, self._spec, rng))
            elif tries > 50 * self._batch:
                raise InputRefused("no picture decodes", where=self._parts[part].name)
        return found

    def _sample(self, part: int, index: int) -> Sample | None:
        key = (part, index)
        if key not in self._kept:
            sample = next(iter(self._parts[part].subset([index])), None)
            if self._bytes > IMAGE_BYTES:
                return sample
            self._kept[key] = sample
            self._bytes += 0 if sample is None else sample.image.nbytes
        return self._kept[key]


class Prefetcher:
    """Prepares the next batches in a thread; errors reach the one who asks."""

    def __init__(self, images: TrainLoader, start: int, stop: int) -> None:
        self._queue: queue.Queue[list[Prepared] | Exception] = queue.Queue(maxsize=2)
        self._ended = threading.Event()
        self._work_args = (images, start, stop)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        images, start, stop = self._work_args
        for step in range(start, stop):
            try:
                item: list[Prepared] | Exception = images.batch(step)
            except Exception as error:
                item = error
            while not self._ended.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if self._ended.is_set() or isinstance(item, Exception):
                return

    def next(self) -> list[Prepared]:
        """The next batch, in order."""
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
