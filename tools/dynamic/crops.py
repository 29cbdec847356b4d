"""32x32 crops of labelled parts of clothed people: a real stand-in for CIFAR-10, and not CIFAR."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.open import open_dataset

SIDE = 32
#: a part smaller than this, in pixels of the picture, is not cut out
SMALLEST_PART = 150
#: the crop reaches this far beyond the part's box, as a share of its longer side
MARGIN = 0.1
CLASSES = 10


@dataclass(frozen=True)
class Crops:
    """Pictures and what they show.

    Attributes:
        images: (N, 3, 32, 32) uint8, RGB.
        labels: (N,) int64, index into ``classes``.
        classes: names.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def part_crops(root: Path, cache: Path) -> dict[str, Crops]:
    """Crops of the most frequent parts, split ``train`` and ``val`` as the data set is.

    Args:
        root: folder of ``people_parts``.
        cache: file that keeps them.
    """
    if not cache.is_file():
        names = json.loads((root / "classes.json").read_text("utf-8"))
        found = {split: _cut(root, split) for split in ("train", "val")}
        counts = np.bincount(found["train"][1], minlength=len(names))
        counts[0] = 0  # background
        chosen = np.argsort(-counts, kind="stable")[:CLASSES]
        arrays: dict[str, NDArray[np.generic]] = {"classes": np.array([names[c] for c in chosen])}
        for split, (images, labels) in found.items():
            kept = np.isin(labels, chosen)
            place = {int(c): index for index, c in enumerate(chosen)}
            arrays[f"{split}_images"] = images[kept]
            arrays[f"{split}_labels"] = np.array([place[int(c)] for c in labels[kept]])
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cache, **arrays)
    with np.load(cache, allow_pickle=False) as stored:
        classes = tuple(str(name) for name in stored["classes"])
        return {
            split: Crops(stored[f"{split}_images"], stored[f"{split}_labels"], classes)
            for split in ("train", "val")
        }


def _cut(root: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = [], []
    for sample in open_dataset(root, split):
        parts = sample.labels["segmentation"]
        for part in np.unique(parts):
            mask = (parts == part).astype(np.uint8)
            if part <= 0 or int(mask.sum()) < SMALLEST_PART:
                continue
            images.append(_crop(sample.image, cv2.boundingRect(mask)))
            labels.append(int(part))
    return np.stack(images), np.array(labels, np.int64)


def _crop(image: NDArray[np.uint8], box: tuple[int, ...]) -> NDArray[np.uint8]:
    """(3, 32, 32) RGB square around a box (x, y, w, h), the picture's edge replicated."""
    x, y, w, h = box
    side = round(max(w, h) * (1 + 2 * MARGIN))
    centre = (x + w / 2, y + h / 2)
    patch = cv2.getRectSubPix(image, (side, side), centre)
    small = cv2.resize(patch, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:, :, ::-1].transpose(2, 0, 1))
