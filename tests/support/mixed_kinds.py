"""A small network with one task of each kind that is no map, and a data set with their labels.

The picture is a plain colour with a bright square: how bright the ground is tells the class, how
large the square the number; its upper corners are the points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.models.layers import ConvNormAct
from edgemtl.tasks import (
    Classification,
    KeypointTask,
    Multilabel,
    ObjectDetection,
    Raw,
    Regression,
    Task,
)

SIZE = (32, 48)
CLASSES = ("dark", "light")
TAGS = ("small", "large", "left")
CORNERS = ("left", "right")


def tasks() -> list[Task]:
    """One task of each kind."""
    return [
        Classification("ground", CLASSES, mirror=True),
        Multilabel("tags", TAGS),
        Regression("side", "px", scale=5.0, mirror="same"),
        Raw("embedding"),
        KeypointTask("corners", CORNERS, encoding="coordinates", mirrored=[CORNERS]),
        KeypointTask("peaks", CORNERS, mirrored=[CORNERS]),
        ObjectDetection("squares", ("square", "disc"), {"code": "sides", "strides": [4]}),
    ]


@register_family("mixed-kinds")
class MixedKinds(MultiTaskNetwork):
    """An encoder, and a linear layer on its mean for each task."""

    def __init__(self, width: int = 8) -> None:
        spec = InputSpec(SIZE, "rgb", mean=(127.5,) * 3, std=(64.0,) * 3, fill=114.0)
        super().__init__({"width": width}, tasks(), spec)
        self.stem = ConvNormAct(3, width, 3, 2)
        self.body = ConvNormAct(width, 2 * width, 3, 2)
        answers = {"ground": len(CLASSES), "tags": len(TAGS), "side": 1, "embedding": 6}
        answers["corners"] = 2 * len(CORNERS)
        self.heads = nn.ModuleDict({k: nn.Linear(2 * width, n) for k, n in answers.items()})
        self.heads["peaks"] = nn.Conv2d(2 * width, len(CORNERS), 1)
        self.heads["squares"] = nn.Conv2d(2 * width, 2 + 4, 1)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> (B, n) per task; (B, 2, H / 4, W / 4) heat maps; rows of boxes."""
        features = self.body(self.stem(images))
        mean = features.mean(dim=(2, 3))
        answers = {}
        for task in self.requested(tasks):
            place = features if task.name in ("peaks", "squares") else mean
            found = self.heads[task.name](place)
            if task.name == "corners":
                found = found.unflatten(1, (-1, 2))
            if task.name == "squares":
                rows = found.flatten(2).transpose(1, 2)
                answers |= {task.outputs[0]: rows[..., :2], task.outputs[1]: rows[..., 2:].exp()}
            else:
                answers[task.outputs[0]] = found
        return answers


def build(seed: int = 0) -> MixedKinds:
    """A seeded network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MixedKinds().eval()


def write_mixed_table(root: Path, split: str, count: int, seed: int = 0) -> Path:
    """Write ``count`` pictures with all labels (the raw output has none); returns ``root``."""
    rng = np.random.default_rng(seed)
    rows = []
    (root / split / "images").mkdir(parents=True)
    for index in range(count):
        light = index % 2
        image = np.full((48, 72, 3), 60 + 120 * light, np.uint8)
        side, x = int(rng.integers(8, 30)), int(rng.integers(0, 40))
        image[8 : 8 + side, x : x + side] = 255
        noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        name = f"{index:04d}.png"
        cv2.imwrite(str(root / split / "images" / name), noisy)
        tags = ["large" if side > 18 else "small", *(["left"] if x < 20 else [])]
        row = {"file": name, "ground": CLASSES[light], "tags": tags, "side": side}
        row["keypoints"] = [[x, 8], [x + side, 8]]
        row["objects"] = [{"class": "square", "box": [x, 8, side, side]}]
        rows.append(json.dumps(row))
    (root / split / "labels.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return root
