"""Two-task networks around any body: a stem, the body, two dense heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks import Depth, Segmentation

CLASSES = ("floor", "wall", "door")
#: channels that go into a body; what comes out may be others
WIDTH = 16


class Bodied(MultiTaskNetwork):
    """Segmentation ``parts`` and depth ``distance`` read what a body makes of (B, 16, 16, 16)."""

    def __init__(self, body: nn.Module, width: int = WIDTH) -> None:
        spec = InputSpec((32, 32), "rgb", mean=(127.5,) * 3, std=(127.5,) * 3, fill=127.0)
        super().__init__({}, [Segmentation("parts", CLASSES), Depth("distance")], spec)
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.body = body
        self.heads = nn.ModuleDict(
            {"parts": nn.Conv2d(width, len(CLASSES), 1), "distance": nn.Conv2d(width, 1, 1)}
        )

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        y = self.body(self.stem(images))
        answers = {}
        for task in self.requested(tasks):
            out = self.heads[task.name](y)
            answers[task.outputs[0]] = F.softplus(out) if task.name == "distance" else out
        return answers


class Body(nn.Module):
    """A body given as a function of its layers."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def make(body: Callable[[], nn.Module], width: int = WIDTH, seed: int = 0) -> Bodied:
    """A seeded network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bodied(body(), width).eval()


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def grid(t: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) -> (B, C, H, W)."""
    return t.transpose(1, 2).reshape(t.shape[0], -1, *like.shape[2:])
