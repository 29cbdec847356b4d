"""The oracle's held-out pictures: losses of a masked network, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.compress.batches import Batch, losses_per_image
from edgemtl.compress.replay.graph import State, TracedNetwork
from edgemtl.tasks.base import Task

#: batch -> step -> what is kept of its output
Stores = dict[int, dict[int, Any]]


@dataclass(frozen=True)
class LossRequest:
    """What the losses of one batch are.

    Attributes:
        index: of the batch.
        state: masks and statistics.
        dirty: groups whose mask differs from the committed state's, one bit each; 0 for that state.
        columns: tasks whose losses are wanted, by position.
    """

    index: int
    state: State
    dirty: int
    columns: tuple[int, ...]


class LossEvaluator:
    """Batches, and the outputs that are kept of the committed state.

    Args:
        traced: the masked network.
        tasks: whose losses count.
        batches: in the order in which they are looked at.
    """

    def __init__(
        self, traced: TracedNetwork, tasks: Sequence[Task], batches: Sequence[Batch]
    ) -> None:
        self.traced, self.tasks, self.batches = traced, tuple(tasks), list(batches)
        #: per batch: step -> what is kept of its output
        self.stores: list[dict[int, Any]] = [{} for _ in batches]
        #: the same of the trial that is judged, for when it is committed; None between trials
        self.fresh: Stores | None = None

    def expect(self, committed: State, questions: Sequence[LossRequest]) -> None:
        """Say what will be asked next, in this order, or at least the first of it.

        Args:
            committed: the state that kept outputs are of.
            questions: at most two per batch, one of them of the committed state.
        """

    def losses(self, question: LossRequest) -> tuple[NDArray[np.float64], int]:
        """(count, tasks) losses of a batch, 0 in columns that were not asked for, and the
        multiply-accumulates that they took with what was kept."""
        index = question.index
        batch, tasks = self.batches[index], self.tasks_of(question)
        outputs, macs = self.traced.evaluate(
            batch.images,
            question.state,
            self.stores[index],
            question.dirty,
            self.outputs_of(question),
            keep=True,
            fresh=self.fresh_of(index),
        )
        found = np.zeros((batch.count, len(self.tasks)))
        with torch.no_grad():
            found[:, list(question.columns)] = losses_per_image(outputs, batch, tasks)
        return found, macs

    def fit(self, copies: int, memory_bytes: int) -> None:
        """Keep no more than fits; once the first batch was looked at (see
        :meth:`TracedNetwork.fit_into`)."""
        self.traced.fit_into(self.stores[0], copies, memory_bytes)

    def forget(self, dirty: int) -> None:
        """Drop what depends on these groups."""
        for store in self.stores:
            for step in [step for step in store if self.traced.steps[step].bits & dirty]:
                del store[step]

    def fresh_of(self, index: int) -> dict[int, Any] | None:
        """Where to keep what the trial that is judged computes of a batch; None without one."""
        return None if self.fresh is None else self.fresh.setdefault(index, {})

    def adopt(self, dirty: int, fresh: Stores) -> None:
        """A trial that changed these groups is committed: what it computed is valid from now on."""
        self.forget(dirty)
        for index, values in fresh.items():
            self.stores[index].update(values)

    def clear(self) -> None:
        """Drop everything that is kept."""
        for store in self.stores:
            store.clear()

    def tasks_of(self, question: LossRequest) -> list[Task]:
        """The tasks whose losses are asked for."""
        return [self.tasks[column] for column in question.columns]

    def outputs_of(self, question: LossRequest) -> list[str]:
        """Their outputs."""
        return [name for task in self.tasks_of(question) for name in task.outputs]
