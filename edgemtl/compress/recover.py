"""Recovery: train a pruned network with its tasks' losses and by distillation from the dense one.

Everything needed to go on after a kill is in one file; batch ``i`` depends on the seed and ``i``
only. The network that is returned is the one with the smallest worst-task drop on held-out
pictures, be it the one the training started from.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgemtl.compress.batches import Prepared, images_of, targets_of
from edgemtl.compress.distillation import SharedFeatures, feature_loss
from edgemtl.compress.train_loader import Prefetcher, TrainLoader
from edgemtl.data.samples import Dataset
from edgemtl.errors import StageFailed
from edgemtl.files import write_atomically
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.progress import Progress, report

_log = logging.getLogger(__name__)

#: learning rate at the end of the cosine, relative to the peak
LAST_RATE = 0.02
LARGEST_GRADIENT = 10.0
SAVE_EVERY = 50
#: the first steps compile kernels for the pruned shapes and are several times slower
UNTIMED_STEPS = 3
#: an improvement of the drop smaller than this does not count
SMALLEST_GAIN = 0.001
#: a task's loss weighs 1 + drop / this, within the limits: who is behind pulls harder
DROP_THAT_DOUBLES, LEAST_PULL, MOST_PULL = 0.05, 0.5, 3.0


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself.

    Where it does not, PyTorch emulates it: a training step of an M3ViT took 8 times as long as in
    float32 on a processor with AVX2 only.
    """
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@dataclass(frozen=True)
class RecoverOptions:
    """How to train.

    Attributes:
        steps: optimiser steps at most.
        batch: pictures per step.
        learning_rate: peak, warmed up over ``warmup`` steps, then cosine to 2 %.
        weight_decay: on weights of more than one dimension.
        ema: decay of the averaged weights, which are what is evaluated and kept.
        answers: weight of the distillation of answers relative to the task's own loss.
        features: weight of the distillation of shared maps.
        size: training canvas (height, width) in pixels; the network's own when None.
        evaluate_every: steps between evaluations on the held-out pictures.
        patience: a task whose drop has not improved in so many evaluations no longer adds its
            loss; training ends when that is true of all.
        seed: of everything random.
    """

    steps: int = 800
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    warmup: int = 40
    ema: float = 0.995
    answers: float = 1.0
    features: float = 1.0
    size: tuple[int, int] | None = None
    evaluate_every: int = 200
    patience: int = 3
    seed: int = 0


@dataclass(frozen=True)
class RecoverResult:
    """What training did.

    Attributes:
        steps: taken in all.
        best_step: step of the network that was kept (0: the one before training).
        dense: task -> primary metric of the dense network on the held-out pictures.
        before, after: the same of the pruned network, before training and as kept.
        drops: (step, task -> relative drop) of every evaluation.
        seconds: wall time, over all sessions.
    """

    steps: int
    best_step: int
    dense: Mapping[str, float]
    before: Mapping[str, float]
    after: Mapping[str, float]
    drops: tuple[tuple[int, Mapping[str, float]], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not finite is None."""
        data = asdict(self)
        for key in ("dense", "before", "after"):
            data[key] = _finite(data[key])
        data["drops"] = [{"step": step, "drops": _finite(drop)} for step, drop in self.drops]
        return data


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


@dataclass
class RecoverState:
    """Where training is; with the weights, all that is needed to go on."""

    step: int = 0
    best_step: int = 0
    best_drop: float = math.inf
    scales: dict[str, float] = field(default_factory=dict)
    best_of_task: dict[str, float] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    drops: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0


class Recovery:
    """One recovery training.

    Args:
        network: the pruned network; trained in place.
        teacher: the dense network, with at least the same tasks.
        training: pictures to train on.
        held_out: pictures to judge by.
        options: see :class:`RecoverOptions`.
        state: file from which training goes on when it is there; None keeps nothing.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        teacher: MultiTaskNetwork,
        training: Dataset,
        held_out: Dataset,
        options: RecoverOptions,
        state: Path | None = None,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options, self._state, self._held_out = options, state, held_out
        spec = replace(network.input_spec, size=options.size or network.input_spec.size)
        self._pictures = TrainLoader(training, network.tasks, spec, options.batch, options.seed)
        self._names = [task.name for task in network.tasks]
        self.average = copy.deepcopy(network).eval()
        self.best = copy.deepcopy(network.state_dict())
        decayed = [p for p in network.parameters() if p.dim() > 1]
        plain = [p for p in network.parameters() if p.dim() <= 1]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ]
        )
        self.progress = RecoverState()
        self._resume()

    def run(self) -> RecoverResult:
        """Train to the last step, or until no task gets better; leaves the best network.

        Raises:
            StageFailed: the loss is not finite.
        """
        if not self.progress.metrics:
            self.progress.metrics["dense"] = self._metrics(self.teacher)
            self._judge(0)
        student, dense = SharedFeatures(self.network), SharedFeatures(self.teacher)
        batches = Prefetcher(self._pictures, self.progress.step, self.options.steps)
        started, since = time.monotonic(), self.progress.step
        try:
            while self.progress.step < self.options.steps and not self._settled():
                began = time.monotonic()
                self._step(batches.next(), student, dense)
                step = self.progress.step
                if step % SAVE_EVERY == 0:
                    self._save()
                report(Progress("recovery training", step, self.options.steps, "steps"))
                if step % 50 == 0:
                    rate = (step - since) * self.options.batch / (time.monotonic() - started)
                    _log.info(f"recovery step {step}/{self.options.steps}, {rate:.1f} images/s")
                self.progress.seconds += time.monotonic() - began
                if step % self.options.evaluate_every == 0 or step == self.options.steps:
                    self._judge(step)
        finally:
            batches.close()
            student.remove()
            dense.remove()
        self.network.load_state_dict(self.best)
        self.network.eval()
        metrics, progress = self.progress.metrics, self.progress
        return RecoverResult(
            progress.step,
            progress.best_step,
            metrics["dense"],
            metrics["before"],
            metrics["best"],
            tuple((step, drop) for step, drop in progress.drops),
            progress.seconds,
        )

    def seconds_per_step(self, steps: int) -> float:
        """How long a step takes here and now; the weights are left as they were."""
        kept = copy.deepcopy(self.network.state_dict()), copy.deepcopy(self.progress)
        student, dense = SharedFeatures(self.network), SharedFeatures(self.teacher)
        batches = [self._pictures.batch(step) for step in range(steps + UNTIMED_STEPS)]
        try:
            for batch in batches[:UNTIMED_STEPS]:
                self._step(batch, student, dense)
            started = time.monotonic()
            for batch in batches[UNTIMED_STEPS:]:
                self._step(batch, student, dense)
            seconds = (time.monotonic() - started) / steps
        finally:
            student.remove()
            dense.remove()
        self.network.load_state_dict(kept[0])
        self.average.load_state_dict(kept[0])
        self._optimiser.state.clear()
        self.progress = kept[1]
        return seconds

    def _settled(self) -> bool:
        stale = self.progress.stale
        return bool(stale) and all(
            stale.get(name, 0) >= self.options.patience for name in self._names
        )

    def _step(
        self, pictures: list[Prepared], student: SharedFeatures, dense: SharedFeatures
    ) -> None:
        options, progress = self.options, self.progress
        self.network.train()
        images = images_of(pictures)
        size = (images.shape[2], images.shape[3])
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16()):
            with torch.no_grad():
                wanted = self.teacher(images, self._names)
            outputs = self.network(images)
        loss = options.features * feature_loss(student.maps, dense.maps)
        student.maps.clear()
        dense.maps.clear()
        for task in self.network.tasks:
            targets = targets_of(pictures, task, size)
            own = task.loss(outputs, targets)
            value = float(own.detach())
            if value > 0:
                last = progress.scales.get(task.name, value)
                progress.scales[task.name] = 0.98 * last + 0.02 * value
            if progress.stale.get(task.name, 0) >= options.patience:
                continue
            both = own + options.answers * task.distil(outputs, wanted, targets)
            # Divided by its own recent size every task pulls equally, as under learned
            # uncertainties at their optimum.
            size_now = max(progress.scales.get(task.name, 1.0), 1e-6)
            loss = loss + self._pull(task.name) * both / size_now
        if not bool(loss.isfinite()):
            raise StageFailed(
                f"the recovery loss is {float(loss.detach())} at step {progress.step}",
                hint="lower the learning rate",
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self._optimiser.step()
        progress.step += 1
        self._follow()

    def _pull(self, name: str) -> float:
        drop = self.progress.drops[-1][1].get(name, 0.0) if self.progress.drops else 0.0
        return min(max(1 + drop / DROP_THAT_DOUBLES, LEAST_PULL), MOST_PULL)

    def _rate(self) -> float:
        options, step = self.options, self.progress.step
        if step < options.warmup:
            return options.learning_rate * (step + 1) / options.warmup
        done = (step - options.warmup) / max(options.steps - options.warmup, 1)
        return options.learning_rate * (
            LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
        )

    @torch.no_grad()
    def _follow(self) -> None:
        step = self.progress.step
        decay = min(self.options.ema, (step + 1) / (step + 10))
        current = self.network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def _metrics(self, network: MultiTaskNetwork) -> dict[str, float]:
        tasks = network.selected(self._names)
        report = evaluate(
            network_runner(network, [t.name for t in tasks]),
            tasks,
            network.input_spec,
            self._held_out,
        )
        found = {}
        for task in self.network.tasks:
            value = report.tasks[task.name].values[task.primary.key]
            found[task.name] = math.nan if value is None else value
        return found

    def _judge(self, step: int) -> None:
        """Evaluate the averaged network, remember the best, save."""
        progress = self.progress
        now = self._metrics(self.average)
        progress.metrics["last"] = now
        progress.metrics.setdefault("before", now)
        dense = progress.metrics["dense"]
        drops = {
            task.name: task.primary.relative_drop(dense[task.name], now[task.name])
            for task in self.network.tasks
            if not math.isnan(dense[task.name])
        }
        if not drops:
            raise StageFailed(
                "no task can be measured on the held-out pictures",
                hint="give held-out pictures with labels",
            )
        worst = max(drops.values())
        progress.drops.append((step, drops))
        for name, drop in drops.items():
            if drop < progress.best_of_task.get(name, math.inf) - SMALLEST_GAIN:
                progress.best_of_task[name] = drop
                progress.stale[name] = 0
            elif drop == worst and drop > progress.best_of_task.get(name, drop) + SMALLEST_GAIN:
                progress.stale[name] = 0  # it suffers from the others' training: let it fight back
            else:
                progress.stale[name] = progress.stale.get(name, 0) + 1
        for name in self._names:
            if name not in drops:
                progress.stale[name] = self.options.patience
        if worst < progress.best_drop or "best" not in progress.metrics:
            progress.best_drop, progress.best_step = worst, step
            progress.metrics["best"] = now
            self.best = copy.deepcopy(self.average.state_dict())
        shown = ", ".join(f"{name} {100 * drop:+.1f} %" for name, drop in drops.items())
        _log.info(f"recovery step {step}: held-out drop {shown}")
        self._save()

    def _save(self) -> None:
        if self._state is None:
            return
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimiser": self._optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        write_atomically(self._state, lambda stream: torch.save(state, stream))

    def _resume(self) -> None:
        if self._state is None or not self._state.is_file():
            return
        state: dict[str, Any] = torch.load(self._state, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        self.progress = RecoverState(**state["progress"])
        _log.info(f"recovery goes on from step {self.progress.step}")


def recover(
    network: MultiTaskNetwork,
    teacher: MultiTaskNetwork,
    training: Dataset,
    held_out: Dataset,
    options: RecoverOptions,
    state: Path | None = None,
) -> RecoverResult:
    """Train ``network`` in place; see :class:`Recovery`."""
    return Recovery(network, teacher, training, held_out, options, state).run()
