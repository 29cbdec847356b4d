"""The oracle: by how much every task's loss rises when channels go, at the least cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Batch
from edgemtl.compress.pagcp.decision import FEWEST, Verdict, judge
from edgemtl.compress.replay.folded_norm import Statistics
from edgemtl.compress.replay.graph import State, TracedNetwork
from edgemtl.compress.replay.losses import LossEvaluator, LossRequest, Stores
from edgemtl.compress.search_cost import SearchCost
from edgemtl.errors import StageFailed
from edgemtl.tasks.base import Task

#: statistics of a channel may shrink or grow by this factor at most in one re-calibration
LARGEST_CHANGE = 4.0
#: the trained statistics move this share of the way towards those of the calibration pictures
ADAPTED = 0.6
#: pictures that one trial looks at, unless few of them have labels of a task
MOST_PICTURES = 32
#: a loss smaller than this share of the largest task's is compared with that share instead, so
#: that a task that is nearly perfect does not veto everything by a tiny denominator
SMALLEST_REFERENCE = 1e-3


@dataclass
class Trial:
    """A mask that was judged.

    Attributes:
        accepted: whether every task stays within its slack.
        rises: (tasks,) estimated rise of the mean loss.
        images: pictures it took.
        state: masks and statistics it was judged with.
        losses: batch looked at -> (count, tasks).
        fresh: outputs to keep if it is committed; gone once a later trial was accepted.
    """

    accepted: bool
    rises: NDArray[np.float64]
    images: int
    state: State
    losses: dict[int, NDArray[np.float64]]
    fresh: Stores


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
        calibration: batches of other pictures, for batch statistics.
        memory_bytes: for kept outputs.
        pictures: who looks at the batches; this process when None.
    """

    def __init__(
        self,
        traced: TracedNetwork,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        calibration: Sequence[Batch],
        memory_bytes: int,
        pictures: LossEvaluator | None = None,
    ) -> None:
        self.traced = traced
        self.tasks = tuple(tasks)
        self.batches = list(batches)
        self.calibration = list(calibration)
        self.committed = State()
        self.spent = SearchCost()
        self._pictures = pictures or LossEvaluator(traced, self.tasks, self.batches)
        self._bits = np.array([traced.bits_of(task.outputs) for task in self.tasks], object)
        self._memory_bytes = memory_bytes
        self._losses = [np.full((b.count, len(self.tasks)), np.nan) for b in self.batches]
        #: what the last accepted trial keeps
        self._accepted: Stores = {}
        #: per calibration batch: step -> raw statistics of the dense network
        self._before: list[dict[int, Statistics]] = []

    def measure_dense(self) -> None:
        """Losses and batch statistics of the network as it is; once, before anything else.

        Raises:
            StageFailed: a loss is not finite, or the pictures say nothing about a task.
        """
        started = time.monotonic()
        self._expect(order=[0])
        self._refresh(0)
        # Beside the committed state's, outputs of two trials: the last accepted, and the next.
        self._pictures.fit(len(self.batches) + 2 * self._per_trial, self._memory_bytes)
        self._losses = self.committed_losses()
        self._labelled = [values != 0 for values in self._losses]
        names = [task.name for task in self.tasks]
        for column, name in enumerate(names):
            if not np.isfinite(np.concatenate(self._losses)[:, column]).all():
                raise StageFailed(f"the loss of task '{name}' is not finite before pruning")
            if not np.concatenate(self._labelled)[:, column].any():
                raise StageFailed(
                    f"no held-out picture says anything about task '{name}'",
                    hint="give pictures with its labels, or prune for the other tasks only",
                )
        self.dense = self._means(self._losses)
        self.reference = np.maximum(self.dense, SMALLEST_REFERENCE * self.dense.max())
        self.current = self.dense.copy()
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
        self._now(self._means(self.committed_losses()))
        self._add(0, 0, started)
        return self.current.copy()

    def _now(self, losses: NDArray[np.float64]) -> None:
        self.current = losses
        self.reference = np.maximum(self.reference, losses)

    def recalibrate(self) -> bool:
        """Adapt batch statistics to what was removed, where no task's loss suffers from it.

        Statistics of few pictures are noisy, and a trial with them would be refused for the noise,
        so that trials go without and this comes now and then; :attr:`current` is exact after it.

        Returns:
            Whether the statistics were adapted: the worst loss, relative to the reference, fell.
        """
        before = self.exact()
        if not any(self.traced.steps[index].bits for index in self.traced.norms):
            return False
        started = time.monotonic()
        state, losses = self.committed, [values.copy() for values in self._losses]
        self.committed = self._adapted()
        self._pictures.clear()
        for values in self._losses:
            values[:] = np.nan
        after = self._means(self.committed_losses())
        better = bool((after / self.reference).max() < (before / self.reference).max())
        if better:
            self._now(after)
        else:
            self.committed, self._losses = state, losses
            self._pictures.clear()
        self._add(0, 0, started)
        return better

    def try_mask(
        self, name: str, gate: Tensor, tolerance: NDArray[np.float64], turn: int = 0
    ) -> Trial:
        """Judge one more removal, on :data:`MOST_PICTURES` pictures at most.

        More would make one answer surer; losses of all pictures are measured now and then, and
        other pictures looked at from there on, which keeps errors from adding up just as well.

        Args:
            name: the group whose mask changes.
            gate: (width,) its mask: 1 kept, 0 removed.
            tolerance: (tasks,) how far over the reference each loss may be, as a share.
            turn: which pictures are looked at: from one turn to the next they move on. Trials that
                are compared have the same, and outputs are kept of what is looked at often.
        """
        started = time.monotonic()
        dirty = self.traced.bit[name]
        state = self.committed.changed(name, gate)
        slack = (1 + tolerance) * self.reference - self.current
        columns = [i for i, bits in enumerate(self._bits) if bits & dirty]
        order = self._looked_at(turn, columns)
        self._expect(state, dirty, columns, order)
        seen: dict[int, NDArray[np.float64]] = {}
        fresh: Stores = {}
        verdict = Verdict.OPEN
        for index in order:
            self._refresh(index)
            after = self._losses[index].copy()
            self._pictures.fresh = fresh
            after[:, columns] = self._evaluate(index, state, dirty, columns)[:, columns]
            self._pictures.fresh = None
            seen[index] = after
            stacked = np.concatenate([now - self._losses[i] for i, now in seen.items()])
            labelled = np.concatenate([self._labelled[i] for i in seen])
            verdict = judge(
                stacked[:, columns], slack[columns], labelled[:, columns], index == order[-1]
            )
            self._add(0, self.batches[index].count, started=None)
            if verdict is not Verdict.OPEN:
                break
        self._pictures.expect(self.committed, ())
        mean = stacked.sum(axis=0) / np.maximum(labelled.sum(axis=0), 1)
        self._add(1, 0, started)
        accepted = verdict is Verdict.ACCEPT
        if accepted:
            self._accepted.clear()
            self._accepted = fresh
        return Trial(accepted, mean, len(stacked), state, seen, fresh if accepted else {})

    def commit(self, name: str, trial: Trial) -> None:
        """Make an accepted trial the state that later ones are compared with."""
        dirty = self.traced.bit[name]
        self._pictures.adopt(dirty, trial.fresh)
        self.committed = trial.state
        columns = [i for i, bits in enumerate(self._bits) if bits & dirty]
        for index, losses in enumerate(self._losses):
            if index in trial.losses:
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
        spent: SearchCost,
    ) -> None:
        """Go on from a state that was saved (after :meth:`measure_dense`), or back to one."""
        self._pictures.clear()
        self._accepted.clear()
        for losses in self._losses:
            losses[:] = np.nan
        self.committed, self.current, self.reference = state, current.copy(), reference.copy()
        self.spent = spent

    @property
    def _per_trial(self) -> int:
        """Batches that a trial looks at."""
        return min(len(self.batches), math.ceil(MOST_PICTURES / len(self.batches[0].images)))

    def _looked_at(self, turn: int, columns: Sequence[int]) -> list[int]:
        """Batches for one trial: enough pictures, and enough with labels of each task."""
        count = len(self.batches)
        found: list[int] = []
        for step in range(count):
            found.append((turn * self._per_trial + step) % count)
            labels = np.concatenate([self._labelled[index] for index in found])
            few = labels.sum(axis=0)[list(columns)].min(initial=FEWEST) < FEWEST
            if len(labels) >= MOST_PICTURES and not few:
                break
        return found

    def _means(self, losses: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = np.concatenate(losses).sum(axis=0)
        return np.asarray(
            total / np.maximum(np.concatenate(self._labelled).sum(axis=0), 1), np.float64
        )

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
        order: Sequence[int] | None = None,
    ) -> None:
        """Say that the committed losses that are missing are wanted, and those of a trial."""
        questions = []
        for index in range(len(self.batches)) if order is None else order:
            if missing := self._missing(index):
                questions.append(LossRequest(index, self.committed, 0, tuple(missing)))
            if state is not None:
                questions.append(LossRequest(index, state, dirty, tuple(columns)))
        self._pictures.expect(self.committed, questions)

    def _evaluate(
        self, index: int, state: State, dirty: int, columns: Sequence[int]
    ) -> NDArray[np.float64]:
        found, macs = self._pictures.losses(LossRequest(index, state, dirty, tuple(columns)))
        self.spent = self.spent.plus(SearchCost(macs=macs))
        return found

    def _adapted(self) -> State:
        """The committed masks with statistics moved towards those that they lead to.

        The change is measured on the calibration batches, before and after on the same pictures,
        and applied to the trained statistics: exact when nothing was removed, whatever the batch.
        """
        if not self._before:
            self._before = [self._raw_statistics(batch) for batch in self.calibration]
        found = State(dict(self.committed.gates))
        parts = []
        for batch, before in zip(self.calibration, self._before, strict=True):
            state = State(dict(self.committed.gates))
            self._forward(batch, state, partial(self._moved, before))
            parts.append(state.statistics)
        for index in parts[0] if parts else ():
            norm = self.traced.steps[index].norm
            assert norm is not None
            mean = torch.stack([part[index][0] for part in parts]).mean(dim=0)
            var = torch.stack([part[index][1] for part in parts]).mean(dim=0)
            found.statistics[index] = (norm.mean.lerp(mean, ADAPTED), norm.var.lerp(var, ADAPTED))
        return found

    def _moved(
        self, before: Mapping[int, Statistics], index: int, raw: Tensor
    ) -> Statistics | None:
        if not self.traced.steps[index].bits:
            return None
        norm = self.traced.steps[index].norm
        assert norm is not None
        mean0, var0 = before[index]
        mean, var = _statistics(raw)
        growth = torch.where(var0 > 1e-8, var / var0.clamp(min=1e-8), torch.ones_like(var))
        growth = growth.clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
        return norm.mean + (mean - mean0), norm.var * growth

    def _raw_statistics(self, batch: Batch) -> dict[int, Statistics]:
        found: dict[int, Statistics] = {}

        def observe(index: int, raw: Tensor) -> None:
            found[index] = _statistics(raw)

        self._forward(batch, State(), observe)
        return found

    def _forward(
        self, batch: Batch, state: State, observe: Callable[[int, Tensor], Statistics | None]
    ) -> None:
        wanted = [name for task in self.tasks for name in task.outputs]
        _, macs = self.traced.evaluate(batch.images, state, {}, 0, wanted, observe=observe)
        self.spent = self.spent.plus(SearchCost(macs=macs))

    def _add(self, trials: int, images: int, started: float | None) -> None:
        seconds = 0.0 if started is None else time.monotonic() - started
        self.spent = self.spent.plus(SearchCost(0, images, trials, seconds))


def _statistics(raw: Tensor) -> Statistics:
    """(channels,) mean and variance of (B, channels, ...)."""
    dims = [0, *range(2, raw.dim())]
    return raw.mean(dim=dims), raw.var(dim=dims, unbiased=False)
