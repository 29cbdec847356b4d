"""The oracle: by how much every task's loss rises when channels go, at the least cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Batch
from edgemtl.compress.pagcp.decision import Verdict, judge
from edgemtl.compress.pagcp.folded_norm import Statistics
from edgemtl.compress.pagcp.graph import State, TracedNetwork
from edgemtl.compress.pagcp.pictures import Pictures, Question, forget
from edgemtl.errors import StageFailed
from edgemtl.tasks.base import Task

#: statistics of a channel may shrink or grow by this factor at most in one re-calibration
LARGEST_CHANGE = 4.0
#: a loss smaller than this share of the largest task's is compared with that share instead, so
#: that a task that is nearly perfect does not veto everything by a tiny denominator
SMALLEST_REFERENCE = 1e-3


@dataclass(frozen=True)
class Spent:
    """What the oracle cost.

    Attributes:
        macs: multiply-accumulates; what a farm computes ahead and does not need is not counted.
        images: pictures whose losses were looked at, over all trials.
        trials: masks that were judged.
        seconds: wall time.
    """

    macs: int = 0
    images: int = 0
    trials: int = 0
    seconds: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """The sum."""
        return Spent(
            self.macs + other.macs,
            self.images + other.images,
            self.trials + other.trials,
            self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "macs": self.macs,
            "images": self.images,
            "trials": self.trials,
            "seconds": round(self.seconds, 2),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Spent:
        """Parse :meth:`to_dict`."""
        return Spent(
            int(data["macs"]), int(data["images"]), int(data["trials"]), float(data["seconds"])
        )


@dataclass
class Trial:
    """A mask that was judged.

    Attributes:
        accepted: whether every task stays within its slack.
        rises: (tasks,) estimated rise of the mean loss.
        images: pictures it took.
        state: masks and statistics it was judged with.
        losses: per batch looked at, (count, tasks).
    """

    accepted: bool
    rises: NDArray[np.float64]
    images: int
    state: State
    losses: list[NDArray[np.float64]]


class Oracle:
    """Judges masks on held-out pictures.

    Attributes:
        reference: (tasks,) the running reference loss, which never decreases.
        current: (tasks,) estimated mean loss of the committed state.
        dense: (tasks,) mean loss before anything was removed.
        spent: cost so far.

    Args:
        traced: the masked network.
        tasks: whose losses count.
        batches: the held-out pictures, in the order in which they are looked at.
        calibration: one batch of other pictures, for batch statistics.
        memory_bytes: for kept outputs.
        pictures: who looks at the batches; this process when None.
    """

    def __init__(
        self,
        traced: TracedNetwork,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        calibration: Batch,
        memory_bytes: int,
        pictures: Pictures | None = None,
    ) -> None:
        self.traced = traced
        self.tasks = tuple(tasks)
        self.batches = list(batches)
        self.calibration = calibration
        self.committed = State()
        self.spent = Spent()
        self._pictures = pictures or Pictures(traced, self.tasks, self.batches)
        self._calibration_store: dict[int, Tensor] = {}
        self._bits = np.array([traced.bits_of(task.outputs) for task in self.tasks], object)
        self._memory_bytes = memory_bytes
        self._losses = [np.full((b.count, len(self.tasks)), np.nan) for b in self.batches]
        self._before: dict[int, Statistics] = {}

    def measure_dense(self) -> None:
        """Losses and batch statistics of the network as it is; once, before anything else.

        Raises:
            StageFailed: a loss is not finite, or the pictures say nothing about a task.
        """
        started = time.monotonic()
        self._expect(batches=1)
        self._refresh(0)
        # One more copy than batches: the calibration pictures are kept, too.
        self._pictures.fit(len(self.batches) + 1, self._memory_bytes)
        self._losses = self.committed_losses()
        self._labelled = np.concatenate(self._losses) != 0
        names = [task.name for task in self.tasks]
        for column, name in enumerate(names):
            if not np.isfinite(np.concatenate(self._losses)[:, column]).all():
                raise StageFailed(f"the loss of task '{name}' is not finite before pruning")
            if not self._labelled[:, column].any():
                raise StageFailed(
                    f"no held-out picture says anything about task '{name}'",
                    hint="give pictures with its labels, or prune for the other tasks only",
                )
        self.dense = self._means(self._losses)
        self.reference = np.maximum(self.dense, SMALLEST_REFERENCE * self.dense.max())
        self.current = self.dense.copy()
        self._observe_calibration(self.committed, 0, self._before.__setitem__)
        self._add(0, 0, started)

    def affected(self, name: str) -> tuple[str, ...]:
        """The tasks whose outputs depend on a group."""
        bit = self.traced.bit[name]
        return tuple(t.name for t, bits in zip(self.tasks, self._bits, strict=True) if bits & bit)

    def committed_losses(self) -> list[NDArray[np.float64]]:
        """Losses of the committed state on every picture; what is known is not run again."""
        self._expect()
        for index in range(len(self.batches)):
            self._refresh(index)
        return self._losses

    def exact(self) -> NDArray[np.float64]:
        """(tasks,) mean losses of the committed state over all pictures; corrects the estimate."""
        started = time.monotonic()
        self.current = self._means(self.committed_losses())
        self._add(0, 0, started)
        return self.current.copy()

    def try_mask(
        self, name: str, gate: Tensor, tolerance: NDArray[np.float64], recalibrate: bool
    ) -> Trial:
        """Judge one more removal.

        Args:
            name: the group whose mask changes.
            gate: (width,) its mask: 1 kept, 0 removed.
            tolerance: (tasks,) how far over the reference each loss may be, as a share.
            recalibrate: adapt batch statistics downstream before judging.
        """
        started = time.monotonic()
        dirty = self.traced.bit[name]
        state = self.committed.changed(name, gate)
        if recalibrate:
            self._recalibrate(state, dirty)
        slack = (1 + tolerance) * self.reference - self.current
        columns = [i for i, bits in enumerate(self._bits) if bits & dirty]
        self._expect(state, dirty, columns)
        seen: list[NDArray[np.float64]] = []
        rises: list[NDArray[np.float64]] = []
        verdict = Verdict.OPEN
        for index, batch in enumerate(self.batches):
            self._refresh(index)
            after = self._losses[index].copy()
            after[:, columns] = self._evaluate(index, state, dirty, columns)[:, columns]
            seen.append(after)
            rises.append(after - self._losses[index])
            stacked = np.concatenate(rises)
            labelled = self._labelled[: len(stacked)]
            verdict = judge(
                stacked[:, columns],
                slack[columns],
                labelled[:, columns],
                index == len(self.batches) - 1,
            )
            self._add(0, batch.count, started=None)
            if verdict is not Verdict.OPEN:
                break
        self._pictures.expect(self.committed, ())
        stacked = np.concatenate(rises)
        labelled = self._labelled[: len(stacked)]
        mean = stacked.sum(axis=0) / np.maximum(labelled.sum(axis=0), 1)
        self._add(1, 0, started)
        return Trial(verdict is Verdict.ACCEPT, mean, len(stacked), state, seen)

    def commit(self, name: str, trial: Trial) -> None:
        """Make an accepted trial the state that later ones are compared with."""
        dirty = self.traced.bit[name]
        self._forget(dirty)
        self.committed = trial.state
        columns = [i for i, bits in enumerate(self._bits) if bits & dirty]
        for index, losses in enumerate(self._losses):
            if index < len(trial.losses):
                self._losses[index] = trial.losses[index]
            else:
                losses[:, columns] = np.nan
        self.current = self.current + trial.rises
        self.reference = np.maximum(self.reference, self.current)

    def restore(
        self,
        state: State,
        current: NDArray[np.float64],
        reference: NDArray[np.float64],
        spent: Spent,
    ) -> None:
        """Go on from a state that was saved (after :meth:`measure_dense`), or back to one."""
        self._pictures.clear()
        self._calibration_store.clear()
        for losses in self._losses:
            losses[:] = np.nan
        self.committed, self.current, self.reference = state, current.copy(), reference.copy()
        self.spent = spent

    def _means(self, losses: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.concatenate(losses).sum(axis=0)
        return np.asarray(total / np.maximum(self._labelled.sum(axis=0), 1), np.float64)

    def _forget(self, dirty: int) -> None:
        self._pictures.forget(dirty)
        forget(self.traced, self._calibration_store, dirty)

    def _refresh(self, index: int) -> None:
        """Bring the committed losses of a batch up to date."""
        if missing := self._missing(index):
            values = self._evaluate(index, self.committed, 0, missing)
            self._losses[index][:, missing] = values[:, missing]

    def _missing(self, index: int) -> list[int]:
        """Tasks whose committed losses of a batch are not known."""
        found: list[int] = np.flatnonzero(np.isnan(self._losses[index]).any(axis=0)).tolist()
        return found

    def _expect(
        self,
        state: State | None = None,
        dirty: int = 0,
        columns: Sequence[int] = (),
        batches: int | None = None,
    ) -> None:
        """Say that the committed losses that are missing are wanted, and those of a trial."""
        questions = []
        for index in range(len(self.batches) if batches is None else batches):
            if missing := self._missing(index):
                questions.append(Question(index, self.committed, 0, tuple(missing)))
            if state is not None:
                questions.append(Question(index, state, dirty, tuple(columns)))
        self._pictures.expect(self.committed, questions)

    def _evaluate(
        self, index: int, state: State, dirty: int, columns: Sequence[int]
    ) -> NDArray[np.float64]:
        found, macs = self._pictures.losses(Question(index, state, dirty, tuple(columns)))
        self.spent = self.spent.plus(Spent(macs=macs))
        return found

    def _observe_calibration(
        self, state: State, dirty: int, seen: Callable[[int, Statistics], Any]
    ) -> None:
        def observe(index: int, raw: Tensor) -> None:
            dims = [0, *range(2, raw.dim())]
            seen(index, (raw.mean(dim=dims), raw.var(dim=dims, unbiased=False)))

        self._run_calibration(state, dirty, observe)

    def _run_calibration(
        self, state: State, dirty: int, observe: Callable[[int, Tensor], Statistics | None]
    ) -> None:
        bits = self._bits
        tasks = [t for t, b in zip(self.tasks, bits, strict=True) if not dirty or b & dirty]
        wanted = [name for task in tasks for name in task.outputs]
        _, macs = self.traced.evaluate(
            self.calibration.images,
            state,
            self._calibration_store,
            dirty,
            wanted,
            keep=True,
            observe=observe,
        )
        self.spent = self.spent.plus(Spent(macs=macs))

    def _recalibrate(self, state: State, dirty: int) -> None:
        """Move the statistics of every norm downstream as far as removing channels moved them.

        The change is measured on one batch, before and after on the same pictures, and applied to
        the trained statistics: exact when nothing was removed, whatever the batch.
        """

        def observe(index: int, raw: Tensor) -> Statistics | None:
            if not self.traced.steps[index].bits & dirty:
                return None
            norm = self.traced.steps[index].norm
            assert norm is not None
            mean0, var0 = self._before[index]
            dims = [0, *range(2, raw.dim())]
            mean, var = raw.mean(dim=dims), raw.var(dim=dims, unbiased=False)
            growth = torch.where(var0 > 1e-8, var / var0.clamp(min=1e-8), torch.ones_like(var))
            growth = growth.clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
            return norm.mean + (mean - mean0), norm.var * growth

        self._run_calibration(state, dirty, observe)

    def _add(self, trials: int, images: int, started: float | None) -> None:
        seconds = 0.0 if started is None else time.monotonic() - started
        self.spent = self.spent.plus(Spent(0, images, trials, seconds))
