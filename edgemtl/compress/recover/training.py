"""Recovery from its start to its end, in stages, resumable.

Everything needed to go on after a kill is in one file; batch ``i`` depends on the seed and ``i``
only. What is returned has the smallest worst loss of a task on held-out pictures, be it the network
that training started from.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from edgemtl.compress.batches import Prepared, images_of
from edgemtl.compress.recover.best_weights import BestWeights
from edgemtl.compress.recover.judge import HeldOutJudge
from edgemtl.compress.recover.losses import pulls
from edgemtl.compress.recover.matched import Rows
from edgemtl.compress.recover.options import RecoverOptions
from edgemtl.compress.recover.records import Progress, RecoverResult, Stage
from edgemtl.compress.recover.stages import only_task, planned, stage_names, trained
from edgemtl.compress.recover.statistics import has_statistics
from edgemtl.compress.recover.trainer import LossNotFinite, Trainer, scheduled
from edgemtl.compress.recover.trial import NORMS_STAND, RATES, RateTrial, trial_steps
from edgemtl.compress.train_loader import Prefetcher, TrainLoader
from edgemtl.data.samples import Dataset
from edgemtl.errors import StageFailed
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.progress import Progress as Tick
from edgemtl.progress import report

_log = logging.getLogger(__name__)

#: of the file that a killed training goes on from
STATE_VERSION = 2
SAVE_EVERY = 50
#: batches whose gradients warm the optimiser's moments; one more before compiles kernels, untimed
WARM_BATCHES = 4
#: batches that batch statistics are estimated from anew
STATISTICS_BATCHES = 8


class Recovery:
    """One recovery training.

    Args:
        network: the pruned network; trained in place. Parameters that need no gradient stay.
        teacher: the dense network, with at least the same tasks.
        training: pictures to train on, with or without labels.
        held_out: pictures to judge by, likewise.
        options: see :class:`RecoverOptions`.
        state: file from which training goes on when it is there; None keeps nothing.
        rows: places where the two are held against each other, see
            :func:`~edgemtl.compress.recover.matched.matched_rows`; empty where none are known.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        teacher: MultiTaskNetwork,
        training: Dataset,
        held_out: Dataset,
        options: RecoverOptions,
        state: Path | None = None,
        rows: Rows | None = None,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self._state, self._held_out = options, state, held_out
        self._rows = {} if rows is None else rows
        spec = replace(network.input_spec, size=options.size or network.input_spec.size)
        self._images = TrainLoader(training, network.tasks, spec, options.batch, options.seed)
        self._names = [task.name for task in network.tasks]
        self.progress = Progress()
        self.weights = BestWeights(self.network, self.progress)
        self._optimiser: dict[str, Any] | None = None
        self._resume()

    def run(self) -> RecoverResult:
        """Train in stages until the gates hold or steps are used up; leaves the best network.

        Raises:
            StageFailed: the loss is not finite before the first step.
        """
        progress, options = self.progress, self.options
        judge = HeldOutJudge(
            *(self._names, self.teacher, self._held_out, options.seed, options.allowed),
            figures=progress.dense or None,
        )
        if progress.best is None:
            progress.dense = judge.dense
            self.weights.look(judge, 0)
            self._save()
        for kind in stage_names(options)[len(progress.done) :]:
            if progress.current is None:
                if progress.step >= options.steps or self._enough():
                    break
                progress.current = planned(kind, options, progress, len(self._names))
            self._run(progress.current, judge)
            progress.done.append(progress.current)
            progress.current, self._optimiser = None, None
            self._save()
        if self._enough():
            _log.info("recovery: every gate holds with a margin on the held-out pictures")
        self.network.load_state_dict(self.weights.best)
        self.network.eval()
        assert progress.best is not None
        return RecoverResult(
            progress.step,
            progress.best_step,
            progress.dense,
            progress.before,
            progress.best.figures,
            tuple((step, drop) for step, drop in progress.drops),
            progress.seconds,
            tuple(stage for stage in progress.done if stage.stop > stage.first),
            tuple((step, found) for step, found in progress.distances if found),
        )

    def seconds_per_step(self, steps: int) -> float:
        """How long a step of all parameters takes here; the weights are left as they were."""
        scales = dict(self.progress.scales)
        trainer = self._trainer(Stage("all", 0, steps))
        try:
            return self._warm(trainer, steps)
        finally:
            trainer.close()
            self.progress.scales = scales

    def _enough(self) -> bool:
        return self.options.train == "auto" and self.weights.enough(self.options.enough)

    def _trainer(self, stage: Stage) -> Trainer:
        task = only_task(stage)
        return Trainer(
            self.network,
            self.teacher,
            self._names if task is None else [task],
            trained(stage, self.network),
            self.options,
            self._rows,
            self.progress.scales,
        )

    def _warm(self, trainer: Trainer, batches: int) -> float:
        """Warm the moments at the start; returns the seconds that a step takes."""
        images = [self._images.batch(self.progress.step + i) for i in range(batches + 1)]
        even = dict.fromkeys(self._names, 1.0)
        try:
            trainer.step(images[0], 0.0, even)
            started = time.monotonic()
            for batch in images[1:]:
                trainer.step(batch, 0.0, even)
        except LossNotFinite:
            raise StageFailed(
                "the recovery loss is not finite before the first step",
                hint="look for weights or labels that are no numbers",
            ) from None
        return (time.monotonic() - started) / batches

    def _run(self, stage: Stage, judge: HeldOutJudge) -> None:
        if stage.stop <= stage.first or not trained(stage, self.network):
            stage.stop = stage.first
            return
        progress, began = self.progress, time.monotonic()
        assert progress.best is not None
        before = progress.best.score
        trainer = self._trainer(stage)
        try:
            if self._optimiser is not None:
                trainer.resume(self._optimiser)
            if not stage.warm:
                self._begin(stage, trainer)
            if stage.rate is None:
                self._choose(stage, trainer, judge)
                self._save(trainer)
            trainer.frozen = stage.frozen
            if stage.rate:
                self._train(stage, trainer, judge)
                if stage.trains == "all" and has_statistics(self.network):
                    first = progress.step
                    steps = range(first, first + STATISTICS_BATCHES)
                    images = [images_of(self._images.batch(step)) for step in steps]
                    self.weights.reestimate(judge, images)
            else:
                stage.ended = "no rate was better than no step"
        finally:
            trainer.close()
            stage.seconds += time.monotonic() - began
            progress.seconds += time.monotonic() - began
        _log.info(
            f"recovery, {stage.trains}: {stage.taken} steps in {stage.seconds:.0f} s, worst task "
            f"{100 * before:+.1f} % -> {100 * progress.best.score:+.1f} %"
            + (f"; {stage.ended}" if stage.ended else "")
        )

    def _begin(self, stage: Stage, trainer: Trainer) -> None:
        """From the best so far, with warm moments; say what the stage will take."""
        progress = self.progress
        self.network.load_state_dict(self.weights.best)
        self.weights.average.load_state_dict(self.weights.best)
        progress.last = progress.best
        progress.stale.clear()
        progress.best_of_task.clear()
        stage.step_seconds = self._warm(trainer, WARM_BATCHES)
        stage.warm = True
        steps = stage.stop - stage.first
        tried = 0 if self.options.learning_rate else trial_steps(steps) * (len(RATES) + 1)
        _log.info(
            f"recovery, {stage.trains}: up to {steps} steps, about "
            f"{stage.step_seconds * (steps + tried):.0f} s and the looks at held-out pictures"
        )
        self._save(trainer)

    def _choose(self, stage: Stage, trainer: Trainer, judge: HeldOutJudge) -> None:
        asked = self.options.learning_rate
        stand = NORMS_STAND if stage.trains == "norms" else 1.0
        rates = [rate * stand for rate in RATES] if asked is None else [asked]
        follow_batches = stage.trains == "all" and has_statistics(self.network)
        if asked is not None and not follow_batches:
            stage.rate = asked
            return
        steps = range(
            self.progress.step, self.progress.step + trial_steps(stage.stop - stage.first)
        )
        assert self.progress.best is not None
        trial = RateTrial(
            trainer,
            self.network,
            judge,
            self.progress.best,
            [self._images.batch(step) for step in steps],
            self._task_weights(stage, judge),
            lambda: self._save(trainer),
        )
        trial.choose(stage, rates, follow_batches)

    def _train(self, stage: Stage, trainer: Trainer, judge: HeldOutJudge) -> None:
        progress, options = self.progress, self.options
        task = only_task(stage)
        names = self._names if task is None else [task]
        batches = Prefetcher(self._images, progress.step, stage.stop)
        started, since = time.monotonic(), progress.step
        try:
            while progress.step < stage.stop and not self._enough():
                if self.weights.settled(names, options.patience):
                    stage.ended = "no task got better"
                    return
                try:
                    weights = self._task_weights(stage, judge)
                    self._step(trainer, batches.next(), stage, weights)
                except LossNotFinite:
                    stage.ended = f"the loss was not finite after step {progress.step}"
                    return
                step = progress.step
                if step % SAVE_EVERY == 0:
                    self._save(trainer)
                report(Tick("recovery training", step, options.steps, "steps"))
                if step % 50 == 0:
                    speed = (step - since) * options.batch / (time.monotonic() - started)
                    _log.info(f"recovery step {step}/{options.steps}, {speed:.1f} images/s")
                if step % options.evaluate_every == 0 or step == stage.stop:
                    self.weights.look(judge, step)
                    self._save(trainer)
        finally:
            batches.close()

    def _step(
        self,
        trainer: Trainer,
        images: Sequence[Prepared],
        stage: Stage,
        weights: dict[str, float],
    ) -> None:
        assert stage.rate is not None
        steps, done = stage.stop - stage.first, self.progress.step - stage.first
        trainer.step(images, scheduled(stage.rate, done, steps, self.options.warmup), weights)
        self.progress.step += 1
        stage.taken += 1
        self.weights.follow(self.network, stage.taken, self.options.ema)

    def _task_weights(self, stage: Stage, judge: HeldOutJudge) -> dict[str, float]:
        task = only_task(stage)
        if task is not None:
            return {task: 1.0}
        progress = self.progress
        assert progress.last is not None
        found = pulls(progress.last, judge.shares)
        return {n: w for n, w in found.items() if progress.stale.get(n, 0) < self.options.patience}

    def _save(self, trainer: Trainer | None = None) -> None:
        if self._state is None:
            return
        optimiser = None if trainer is None else trainer.moments()
        state = {
            "version": STATE_VERSION,
            "network": self.network.state_dict(),
            "average": self.weights.average.state_dict(),
            "best": self.weights.best,
            "optimiser": optimiser,
            "progress": asdict(self.progress),
        }
        write_atomically(self._state, lambda stream: torch.save(state, stream))

    def _resume(self) -> None:
        if self._state is None or not self._state.is_file():
            return
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        if state.get("version") != STATE_VERSION:
            _log.info("recovery starts anew: what an earlier version left cannot go on")
            return
        self.network.load_state_dict(state["network"])
        self.weights.average.load_state_dict(state["average"])
        self.weights.best = state["best"]
        self._optimiser = state["optimiser"]
        self.progress = self.weights.progress = Progress.from_dict(state["progress"])
        _log.info(f"recovery goes on from step {self.progress.step}")


def recover(
    network: MultiTaskNetwork,
    teacher: MultiTaskNetwork,
    training: Dataset,
    held_out: Dataset,
    options: RecoverOptions,
    state: Path | None = None,
    rows: Rows | None = None,
) -> RecoverResult:
    """Train ``network`` in place; see :class:`Recovery`.

    Raises:
        StageFailed: the loss is not finite before the first step.
    """
    return Recovery(network, teacher, training, held_out, options, state, rows).run()
