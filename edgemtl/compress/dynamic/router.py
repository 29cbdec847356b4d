"""The small network that looks at a picture first and names the prototype that should answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl.compress.batches import Prepared, images_of
from edgemtl.errors import UsageError
from edgemtl.progress import Progress, report

_log = logging.getLogger(__name__)

#: pictures are averaged down to about this many pixels a side before anything is multiplied
LOOK = 80
WIDTHS = (16, 24)
#: a threshold that no probability reaches: every picture goes to the full network
NEVER = 1.01


class Router(nn.Module):
    """Average pooling, two strided convolutions, pooled, one linear layer.

    Args:
        count: prototypes.
        size: (height, width) of the network's input.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.count, self.size = count, size
        self.shrink = nn.AvgPool2d(max(1, min(size) // LOOK))
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, 2, 1, bias=False),
            nn.BatchNorm2d(WIDTHS[1]),
            nn.ReLU(),
        )
        self.answer = nn.Linear(2 * WIDTHS[1], count)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, count)."""
        x = self.second(self.first(self.norm(self.shrink(images))))
        found: Tensor = self.answer(torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], dim=1))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised as the network's input -> (B, count) probabilities."""
        return self.logits(images).softmax(dim=1)


@dataclass(frozen=True)
class RouterOptions:
    """How the router learns.

    Attributes:
        steps: of training.
        batch: pictures per step.
        learning_rate: at its highest.
        precision: share of the accepted held-out pictures that go where they should; what is too
            unsure for it goes to the full network.
        seed: of everything random.
    """

    steps: int = 300
    batch: int = 32
    learning_rate: float = 3e-3
    precision: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.precision <= 1:
            raise UsageError(
                "a router takes at least one step and picture, and a precision in 0..1"
            )


@dataclass(frozen=True)
class RouterReport:
    """How well it routes, on pictures it has not learned from.

    Attributes:
        accuracy: share that goes to the right prototype when none is refused.
        most_frequent: the same for a router that always names the most frequent one.
        threshold: probability below which the full network answers.
        accepted: share of pictures at least so sure.
        precision: share of those that go where they should; None where none is accepted.
    """

    accuracy: float
    most_frequent: float
    threshold: float
    accepted: float
    precision: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def train_router(
    prepared: Sequence[Prepared],
    labels: NDArray[np.int64],
    count: int,
    options: RouterOptions,
) -> Router:
    """Learn which prototype a picture belongs to; every prototype counts equally.

    Args:
        prepared: on the network's canvas.
        labels: (pictures,) index of each one's prototype.
        count: prototypes.
        options: see :class:`RouterOptions`.
    """
    rng = np.random.default_rng(options.seed)
    height, width = prepared[0].canvas.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        router = Router(count, (height, width))
    frequency = np.bincount(labels, minlength=count)
    weight = torch.from_numpy(len(labels) / np.maximum(frequency, 1) / count).float()
    optimiser = torch.optim.AdamW(router.parameters(), options.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=options.steps + 1
    )
    router.train()
    for step in range(options.steps):
        index = rng.integers(len(prepared), size=options.batch)
        images = images_of([prepared[i] for i in index])
        if rng.random() < 0.5:
            images = images.flip(3)
        loss = F.cross_entropy(
            router.logits(images), torch.from_numpy(labels[index]), weight, label_smoothing=0.02
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        report(Progress("router", step + 1, options.steps, "steps"))
        if (step + 1) % 100 == 0:
            _log.info(f"router step {step + 1}/{options.steps}: loss {float(loss.detach()):.3f}")
    return router.eval()


@torch.no_grad()
def probabilities(router: Router, images: Sequence[Prepared]) -> NDArray[np.float32]:
    """(pictures, count)."""
    parts = [router(images_of(images[start : start + 32])) for start in range(0, len(images), 32)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def judge(
    predicted: NDArray[np.float32], labels: NDArray[np.int64], precision: float
) -> RouterReport:
    """Choose the threshold that reaches a precision, and tell what it costs.

    Args:
        predicted: (pictures, count) probabilities on held-out pictures.
        labels: (pictures,) where each should go.
        precision: see :class:`RouterOptions`.
    """
    confidence, choice = predicted.max(axis=1), predicted.argmax(axis=1)
    right = choice == labels
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(reached >= precision)
    threshold = NEVER
    if len(enough):
        # Between two pictures' confidences, so that no rounding decides about either.
        last = int(enough[-1])
        below = confidence[order[last + 1]] if last + 1 < len(order) else 0.0
        threshold = float(confidence[order[last]] + below) / 2
    accepted = confidence >= threshold
    return RouterReport(
        float(right.mean()),
        float(np.bincount(labels).max() / len(labels)),
        threshold,
        float(accepted.mean()),
        float(right[accepted].mean()) if accepted.any() else None,
    )
