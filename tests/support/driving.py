"""What another package may add to EdgeMTL: a task with a scalar label, its data set, a method.

A car's camera: how far to turn the wheel, a number per picture, beside what is road. The label is
no map, so nothing in the product may take it for one. CONTRIBUTING.md shows parts of this file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl.compress.context import ChannelSelection, PruneContext
from edgemtl.data.faces import read_image
from edgemtl.data.open import DatasetFormat
from edgemtl.data.preprocess import InputSpec, View
from edgemtl.data.samples import Sample
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.models.layers import ConvNormAct
from edgemtl.tasks import Metric, MetricResult, MetricSpec, Segmentation, Task, TaskSpec
from edgemtl.tasks.registry import register_task
from support.data import random_image

SIZE = (32, 48)
CLASSES = ("road", "rest")


@register_task
class Steering(Task):
    """Degrees to turn the wheel, positive to the right.

    Output: ``<name>.degrees`` (1,).
    """

    kind = "steering"
    label_kind = "steering"
    primary = MetricSpec("mae_deg", "steering error", "lower", "deg")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.degrees",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def mirror(self, label: float, width: int) -> float:
        return -label

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B,) float32 degrees, NaN where not labelled."""
        return torch.tensor([np.nan if v is None else v for v in labels], dtype=torch.float32)

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        found = outputs[self.outputs[0]].float()[:, 0]
        known = targets.isfinite()
        if not bool(known.any()):
            return {"l1": found.sum() * 0.0}
        return {"l1": F.l1_loss(found[known], targets[known])}

    def decode(
        self, outputs: Mapping[str, NDArray[np.float32]], view: View, decoded: Mapping[str, Any]
    ) -> float:
        return float(outputs[self.outputs[0]][0])

    def new_metric(self) -> Metric:
        return SteeringError(self.name)

    def draw(self, picture: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        return picture


class SteeringError(Metric):
    """Mean absolute error in degrees."""

    found = ("_errors",)

    def __init__(self, task: str) -> None:
        self._task = task
        self._errors: list[float] = []

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("steering")
        if label is not None:
            self._errors.append(abs(decoded[self._task] - label))

    def result(self) -> MetricResult:
        value = float(np.mean(self._errors)) if self._errors else None
        return MetricResult({"mae_deg": value}, len(self._errors))


class DrivingFolder:
    """``SPLIT/images`` with ``SPLIT/steering.json``: {picture: degrees}; road is the lower half."""

    def __init__(self, name: str, folder: Path, degrees: Sequence[tuple[str, float]]) -> None:
        self.name, self.folder, self.degrees = name, folder, tuple(degrees)
        self.problems: list[str] = []

    @staticmethod
    def open(root: Path, split: str | None) -> DrivingFolder:
        folder = root / str(split)
        told = json.loads((folder / "steering.json").read_text("utf-8"))
        return DrivingFolder(f"{root.name}/{split}", folder, sorted(told.items()))

    def __len__(self) -> int:
        return len(self.degrees)

    def __iter__(self) -> Iterator[Sample]:
        for name, degrees in self.degrees:
            image = read_image(self.folder / "images" / name)
            if image is None:
                self.problems.append(f"{name}: does not decode")
                continue
            road = np.zeros(image.shape[:2], np.int64)
            road[: image.shape[0] // 2] = 1
            yield Sample(name, image, {"steering": degrees, "segmentation": road})

    def subset(self, indices: Sequence[int]) -> DrivingFolder:
        return DrivingFolder(self.name, self.folder, [self.degrees[i] for i in indices])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.degrees).encode())
        for name, _ in self.degrees:
            digest.update((self.folder / "images" / name).read_bytes())
        return digest.hexdigest()


def splits(root: Path) -> list[str | None]:
    """Splits of a folder of this layout."""
    return [path.parent.name for path in sorted(root.glob("*/steering.json"))]


#: what the entry point of the group ``edgemtl.datasets`` names
DRIVING = DatasetFormat(
    "driving", "SPLIT/images with SPLIT/steering.json", splits, DrivingFolder.open
)


def first_units(context: PruneContext) -> ChannelSelection:
    """A pruning method: of every group the first half of its units stays, whatever they do."""
    keep = {}
    for name, widths in context.choices.items():
        whole = max(widths)
        mask = torch.zeros(whole, dtype=torch.bool)
        mask[: min((w for w in widths if w >= whole / 2), default=whole)] = True
        keep[name] = mask
    return ChannelSelection(keep)


@register_family("tiny-driver")
class TinyDriver(MultiTaskNetwork):
    """Road at stride 4 and an angle from one encoder."""

    def __init__(self, width: int = 8) -> None:
        spec = InputSpec(SIZE, "rgb", mean=(127.5,) * 3, std=(64.0,) * 3, fill=114.0)
        tasks: list[Task] = [Segmentation("road", CLASSES), Steering("wheel")]
        super().__init__({"width": width}, tasks, spec)
        self.stem = ConvNormAct(3, width, 3, 2)
        self.body = ConvNormAct(width, 2 * width, 3, 2)
        self.road = nn.Conv2d(2 * width, len(CLASSES), 1)
        self.wheel = nn.Linear(2 * width, 1)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, 2, H / 4, W / 4) and degrees (B, 1)."""
        features = self.body(self.stem(images))
        answers: dict[str, Tensor] = {}
        for task in self.requested(tasks):
            if task.name == "road":
                answers[task.outputs[0]] = self.road(features)
            else:
                answers[task.outputs[0]] = self.wheel(features.mean(dim=(2, 3)))
        return answers


def build(seed: int = 0) -> TinyDriver:
    """A seeded network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyDriver().eval()


def write_driving_folder(root: Path, split: str, count: int, seed: int = 0) -> Path:
    """Write ``count`` pictures with a random angle each; returns ``root``."""
    import cv2

    rng = np.random.default_rng(seed)
    told = {}
    (root / split / "images").mkdir(parents=True)
    for index in range(count):
        name = f"{index:04d}.png"
        cv2.imwrite(str(root / split / "images" / name), random_image(rng, (48, 72)))
        told[name] = float(rng.uniform(-20, 20))
    (root / split / "steering.json").write_text(json.dumps(told), "utf-8")
    return root
