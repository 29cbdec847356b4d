"""Training of M3ViT on pictures that carry labels of some tasks each; resumable."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl.data.samples import Sample
from edgemtl.files import write_atomically
from edgemtl.models.m3vit.network import M3ViT

#: weights of the task losses (M3ViT, section 5), by kind of task
WEIGHTS = {
    "segmentation": 1.0,
    "parts": 2.0,
    "saliency": 5.0,
    "normals": 10.0,
    "edges": 50.0,
    "depth": 1.0,
}
#: weight of the balance loss (M3ViT, section 5)
BALANCE = 0.01


@dataclass(frozen=True)
class DensePlan:
    """How long and how fast.

    Attributes:
        steps: optimiser steps in all.
        batch: pictures per step, all of one source.
        learning_rate: peak; warmed up over ``warmup`` steps, then cosine to 1 %.
        weight_decay: on matrices and convolutions only.
        ema: decay of the averaged weights that are kept in the end.
        seed: of everything random; batch i depends on (seed, i) only.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 6e-4
    weight_decay: float = 0.05
    warmup: int = 100
    ema: float = 0.998
    seed: int = 0


@dataclass
class DenseTrainer:
    """Trains a network in place; keeps ``state.pt`` in a folder and goes on from it.

    Attributes:
        network: trained in place.
        plan: see :class:`DensePlan`.
        folder: of the state.
        log: receives one line now and then.
    """

    network: M3ViT
    plan: DensePlan
    folder: Path
    log: Callable[[str], None] = print
    save_every: int = 100
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        decayed = [p for p in self.network.parameters() if p.dim() > 1 and p.shape[0] > 1]
        rest = [p for p in self.network.parameters() if p.dim() <= 1 or p.shape[0] == 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.plan.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=self.plan.learning_rate,
        )
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.log(f"resumed at step {self.step}")

    def save(self) -> None:
        """Write ``state.pt`` atomically."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        write_atomically(self.folder / "state.pt", lambda stream: torch.save(state, stream))

    def _rate(self) -> float:
        if self.step < self.plan.warmup:
            return self.plan.learning_rate * (self.step + 1) / self.plan.warmup
        done = (self.step - self.plan.warmup) / max(self.plan.steps - self.plan.warmup, 1)
        return self.plan.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    def _batch(self, samples: Sequence[Sample]) -> Tensor:
        spec = self.network.input_spec
        pixels = np.stack([sample.image[:, :, ::-1] for sample in samples]).astype(np.float32)
        pixels = (pixels - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return images.contiguous(memory_format=torch.channels_last)

    def _step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Every picture of a batch carries the same labels, so only their tasks are computed."""
        labels = samples[0].labels
        tasks = [task for task in self.network.tasks if task.label_kind in labels]
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        found = self.network.forward_training(self._batch(samples), [task.name for task in tasks])
        losses: dict[str, Tensor] = {}
        for task in tasks:
            maps = [sample.labels[task.label_kind] for sample in samples]
            targets = task.collate(maps, self.network.input_spec.size)
            losses[task.name] = sum(
                task.loss_terms(found.outputs, targets).values(), torch.zeros(())
            )
        total = sum(
            (WEIGHTS[task.kind] * losses[task.name] for task in tasks), BALANCE * found.balance
        )
        if not bool(total.isfinite()):
            raise FloatingPointError(f"the loss is {total.item()} at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        decay = min(self.plan.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            current = self.network.state_dict()
            for name, value in self.average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(current[name], 1 - decay)
                else:
                    value.copy_(current[name])
        self.step += 1
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        return {**values, "balance": float(found.balance.detach()) / len(tasks)}

    def run(self, draw: Callable[[np.random.Generator, int], list[Sample]]) -> M3ViT:
        """Train to the plan's last step and return the averaged network, in eval mode."""
        self.network.train()
        sums: dict[str, list[float]] = {}
        started, since = time.monotonic(), self.step
        while self.step < self.plan.steps:
            rng = np.random.default_rng([self.plan.seed, self.step])
            for name, value in self._step(draw(rng, self.plan.batch)).items():
                sums.setdefault(name, []).append(value)
            if self.step % 50 == 0 or self.step == self.plan.steps:
                spent = time.monotonic() - started
                self.seconds += spent
                shown = " ".join(f"{n} {np.mean(v):.3f}" for n, v in sorted(sums.items()))
                each = spent / max(self.step - since, 1)
                self.log(f"step {self.step}/{self.plan.steps} {shown} ({each:.2f} s/step)")
                sums, started, since = {}, time.monotonic(), self.step
            if self.step % self.save_every == 0:
                self.save()
        self.save()
        return self.average.eval()
