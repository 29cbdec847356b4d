"""A training loop that survives being killed: everything it needs to go on is in one file."""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl.data.samples import Faces, Sample
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks.anchors import FaceBatch, encode_boxes
from edgemtl.tasks.detection import Detection

#: loss terms that share one learned uncertainty (MOS: class, box, landmark, pose)
TERM_GROUPS = {
    "class": 0,
    "box": 1,
    "points": 2,
    "yaw": 3,
    "pitch": 3,
    "roll": 3,
}


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        steps: optimiser steps in all.
        batch: pictures per step.
        learning_rate: peak; warmed up over ``warmup`` steps, then cosine to 2 %.
        backbone_factor: learning rate of the backbone relative to that.
        weight_decay: on convolution weights only.
        ema: decay of the averaged weights that are kept in the end.
        frozen: name prefixes of parameters that stay as they are (with their batch statistics).
        feedback_tau: below this share of the loss from small faces the next batch is mosaics.
        seed: of everything random.
    """

    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    backbone_factor: float = 0.5
    weight_decay: float = 5e-4
    warmup: int = 50
    ema: float = 0.998
    frozen: tuple[str, ...] = ()
    feedback_tau: float = 0.1
    seed: int = 0


class Prefetcher:
    """Draws batches in one background thread; batch i depends on (seed, i) only."""

    def __init__(
        self, draw: Callable[[np.random.Generator, bool], Sample], plan: Plan, start: int
    ) -> None:
        self._draw, self._plan = draw, plan
        self._queue: queue.Queue[list[Sample] | Exception] = queue.Queue(maxsize=2)
        self._small = False
        self._thread = threading.Thread(target=self._work, args=(start,), daemon=True)
        self._thread.start()

    def _work(self, start: int) -> None:
        for step in range(start, self._plan.steps):
            rng = np.random.default_rng([self._plan.seed, step])
            small = self._small
            try:
                batch = [self._draw(rng, small) for _ in range(self._plan.batch)]
            except Exception as error:
                # Raised where the batch is awaited: a thread that dies silently leaves the
                # training waiting forever.
                self._queue.put(error)
                return
            self._queue.put(batch)

    def request_small(self, wanted: bool) -> None:
        """Online feedback: later batches are mosaics (or not)."""
        self._small = wanted

    def __iter__(self) -> Iterator[list[Sample]]:
        while True:
            batch = self._queue.get()
            if isinstance(batch, Exception):
                raise batch
            yield batch


def to_batch(
    samples: Sequence[Sample], mean: NDArray[np.float32], rgb: bool
) -> tuple[Tensor, list[Faces]]:
    """Stack pictures of one size, normalised, channels last in memory."""
    pixels = np.stack([s.image[:, :, ::-1] if rgb else s.image for s in samples])
    tensor = torch.from_numpy(pixels.astype(np.float32) - mean).permute(0, 3, 1, 2)
    return tensor, [s.labels["faces"] for s in samples]


@torch.no_grad()
def small_face_loss_share(
    task: Detection, outputs: Mapping[str, Tensor], targets: FaceBatch
) -> float:
    """Share of a batch's box loss that comes from small faces (MOS, section 5: the feedback).

    Small is an area below 32 x 32 px at the published 640 px, scaled to this canvas.
    """
    match = targets.match(task.anchors)
    if len(match.prior) == 0:
        return 0.0
    boxes = targets.boxes()[match.face]
    grid = targets.grid(task.anchors)[match.prior]
    predicted = outputs[task.outputs[1]][match.image, match.prior].float()
    wanted = encode_boxes(boxes, grid, task.anchors)
    loss = F.smooth_l1_loss(predicted, wanted, reduction="none").sum(dim=1)
    limit = (32 * targets.canvas_size[0] / 640) ** 2
    small = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) < limit
    return float(loss[small].sum() / loss.sum().clamp(min=1e-9))


@dataclass
class Trainer:
    """Trains a network on a stream of samples.

    Attributes:
        network: trained in place.
        plan: see :class:`Plan`.
        folder: where ``state.pt`` is kept; training goes on from it when it is there.
        side: training picture side in pixels.
        log: receives one line now and then.
    """

    network: MultiTaskNetwork
    plan: Plan
    folder: Path
    side: int
    log: Callable[[str], None] = print
    save_every: int = 100
    step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.uncertainty = nn.Parameter(torch.zeros(len(set(TERM_GROUPS.values()))))
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(self._groups())
        self._resume()

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if name.startswith(self.plan.frozen or ("\0",)):
                parameter.requires_grad_(False)
                continue
            key = (name.startswith("backbone."), parameter.dim() > 1 and "mix" not in name)
            groups.setdefault(key, []).append(parameter)
        built: list[dict[str, Any]] = [
            {
                "params": parameters,
                "factor": self.plan.backbone_factor if backbone else 1.0,
                "weight_decay": self.plan.weight_decay if decays else 0.0,
            }
            for (backbone, decays), parameters in groups.items()
        ]
        built.append({"params": [self.uncertainty], "factor": 1.0, "weight_decay": 0.0})
        return built

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    def _resume(self) -> None:
        if not self._state_path.exists():
            return
        state = torch.load(self._state_path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            self.uncertainty.copy_(state["uncertainty"])
        self.step = int(state["step"])
        self.log(f"resumed at step {self.step}")

    def save(self) -> None:
        """Write ``state.pt`` atomically."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "uncertainty": self.uncertainty.detach(),
            "step": self.step,
        }
        write_atomically(self._state_path, lambda stream: torch.save(state, stream))

    def _rate(self) -> float:
        if self.step < self.plan.warmup:
            return self.plan.learning_rate * (self.step + 1) / self.plan.warmup
        done = (self.step - self.plan.warmup) / max(self.plan.steps - self.plan.warmup, 1)
        return self.plan.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)

    def _train_mode(self) -> None:
        self.network.train()
        for name, module in self.network.named_modules():
            if self.plan.frozen and f"{name}.".startswith(tuple(f"{p}." for p in self.plan.frozen)):
                module.eval()

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """sum_i exp(-s_i) L_i + s_i over the four uncertainties (MOS, section 5)."""
        groups: dict[int, Tensor] = {}
        for name, value in terms.items():
            index = TERM_GROUPS[name]
            groups[index] = groups[index] + value if index in groups else value
        total = torch.zeros(())
        for index, value in groups.items():
            s = self.uncertainty[index].clamp(-4, 4)
            total = total + torch.exp(-s) * value + s
        return total

    def _step(self, samples: Sequence[Sample], mean: NDArray[np.float32]) -> dict[str, float]:
        images, faces = to_batch(samples, mean, self.network.input_spec.channel_order == "rgb")
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(images)
        targets = self.network.tasks[0].collate(faces, (self.side, self.side))
        terms: dict[str, Tensor] = {}
        for task in self.network.tasks:
            terms.update(task.loss_terms(outputs, targets))
        loss = self._weighted(terms)
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 10.0)
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
        values = {name: float(value.detach()) for name, value in terms.items()}
        detection = next(t for t in self.network.tasks if isinstance(t, Detection))
        values["small"] = small_face_loss_share(detection, outputs, targets)
        return values

    def run(self, draw: Callable[[np.random.Generator, bool], Sample]) -> MultiTaskNetwork:
        """Train to the plan's last step and return the averaged network, in eval mode."""
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean = np.array(self.network.input_spec.mean, np.float32)
        self._train_mode()
        sums: dict[str, float] = {}
        since, started = 0, time.monotonic()
        prefetcher = Prefetcher(draw, self.plan, self.step)
        batches = iter(prefetcher)
        while self.step < self.plan.steps:
            values = self._step(next(batches), mean)
            prefetcher.request_small(values["small"] < self.plan.feedback_tau)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            since += 1
            if self.step % 20 == 0 or self.step == self.plan.steps:
                seconds = time.monotonic() - started
                shown = " ".join(f"{name} {value / since:.3f}" for name, value in sums.items())
                rate = since * self.plan.batch / seconds
                self.log(f"step {self.step}/{self.plan.steps} {shown} ({rate:.1f} images/s)")
                sums, since, started = {}, 0, time.monotonic()
            if self.step % self.save_every == 0:
                self.save()
        self.save()
        return self.average.eval()
