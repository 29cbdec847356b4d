"""Training pictures with dense labels: clothed people and rooms, cropped, mirrored, recoloured.

A crop keeps every label true:

- classes move with their pixels, and edges are drawn between classes *after* the crop, so that
  they stay one pixel wide at the training size;
- a mirrored room has its normals' x negated;
- what is enlarged by s looks s times nearer to a camera whose focal length stays: depth is divided
  by s, and normals turn as the planes of a scene that is squeezed along the optical axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.augment import degrade, jitter_colours
from edgemtl.data.derive import boundaries, foreground
from edgemtl.data.published_dense import BODY_PARTS, IndoorRgbd, PeopleParts
from edgemtl.data.samples import Sample
from edgemtl.files import write_atomically

__all__ = ["BODY_PARTS", "DenseMixture", "read_people", "read_rooms"]

#: colour of what lies outside the picture: about the mean of ImageNet, blue green red
OUTSIDE = (104, 116, 124)


def read_people(root: Path, split: str) -> list[Sample]:
    """All pictures with their classes and parts (edges and saliency follow after cropping)."""
    people = PeopleParts.open(root, split)
    return [
        Sample(
            sample.name,
            sample.image,
            {"parts": sample.labels["parts"].astype(np.int8), "pieces": pieces.astype(np.int8)},
        )
        for sample in people
        if (pieces := sample.labels.get("segmentation")) is not None
    ]


def read_rooms(root: Path, split: str, cache: Path) -> list[Sample]:
    """All pictures with depth and normals; fitting the normals takes minutes, so they are kept."""
    rooms = IndoorRgbd.open(root, split)
    kept = cache / f"normals_{rooms.fingerprint()[:16]}.npz"
    if not kept.exists():
        found = {sample.name: sample.labels["normals"].astype(np.float16) for sample in rooms}
        write_atomically(kept, lambda stream: np.savez(stream, **found))
    normals = np.load(kept, allow_pickle=False)
    plain = super(IndoorRgbd, rooms)
    samples = [sample for i in range(len(rooms)) if (sample := plain.load(i)) is not None]
    return [
        Sample(
            sample.name,
            sample.image,
            {"depth": sample.labels["depth"], "normals": normals[sample.name].astype(np.float32)},
        )
        for sample in samples
    ]


@dataclass
class DenseMixture:
    """Draws training batches of square pictures, all of one source.

    Attributes:
        people: with ``parts`` and ``pieces``.
        rooms: with ``depth`` and ``normals``.
        side: output side in pixels.
        people_share: of the batches.
        people_zoom, rooms_zoom: range of the enlargement relative to the letterboxed picture.
    """

    people: Sequence[Sample]
    rooms: Sequence[Sample]
    side: int
    people_share: float = 0.65
    people_zoom: tuple[float, float] = (0.9, 1.8)
    rooms_zoom: tuple[float, float] = (0.95, 1.5)

    def draw(self, rng: np.random.Generator, count: int) -> list[Sample]:
        """One batch."""
        one = self.person if rng.random() < self.people_share else self.room
        return [one(rng) for _ in range(count)]

    def person(self, rng: np.random.Generator) -> Sample:
        """A crop with parts, saliency and edges."""
        source = self.people[int(rng.integers(len(self.people)))]
        sample, _ = self._cropped(source, rng, self.people_zoom)
        pieces = sample.labels["pieces"].astype(np.int64)
        labels = {
            "parts": sample.labels["parts"].astype(np.int64),
            "saliency": foreground(pieces),
            "edges": boundaries(pieces),
        }
        return Sample(sample.name, sample.image, labels)

    def room(self, rng: np.random.Generator) -> Sample:
        """A crop with depth and normals."""
        source = self.rooms[int(rng.integers(len(self.rooms)))]
        sample, zoom = self._cropped(source, rng, self.rooms_zoom)
        depth, normals = sample.labels["depth"] / np.float32(zoom), sample.labels["normals"]
        normals = normals * np.array([1, 1, zoom], np.float32)
        normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
        return Sample(sample.name, sample.image, {"depth": depth, "normals": normals})

    def _cropped(
        self, sample: Sample, rng: np.random.Generator, zooms: tuple[float, float]
    ) -> tuple[Sample, float]:
        zoom = float(np.exp(rng.uniform(*np.log(zooms))))
        height, width = sample.image.shape[:2]
        crop = max(height, width) / zoom
        top, left = _corner(rng, height, crop), _corner(rng, width, crop)
        labels: dict[str, Any] = {
            kind: _crop_map(label, top, left, crop, self.side)
            for kind, label in sample.labels.items()
        }
        image = _crop_image(sample.image, top, left, crop, self.side)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
            labels = {kind: label[:, ::-1] for kind, label in labels.items()}
            if "normals" in labels:
                labels["normals"] = labels["normals"] * np.array([-1, 1, 1], np.float32)
        image = degrade(jitter_colours(image, rng), rng)
        return Sample(sample.name, image, labels), zoom


def _corner(rng: np.random.Generator, extent: int, crop: float) -> float:
    free = extent - crop
    return float(rng.uniform(min(free, 0), max(free, 0)))


def _crop_image(
    image: NDArray[np.uint8], top: float, left: float, crop: float, side: int
) -> NDArray[np.uint8]:
    """The square at this corner, resized; area averaging where it shrinks."""
    height, width = image.shape[:2]
    y, x, size = round(top), round(left), max(1, round(crop))
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = OUTSIDE
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + size, height), min(x + size, width)
    canvas[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    method = cv2.INTER_AREA if size > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(canvas, (side, side), interpolation=method), np.uint8)


def _crop_map(label: NDArray[Any], top: float, left: float, crop: float, side: int) -> NDArray[Any]:
    """The nearest label per pixel of the square; -1 or NaN outside the picture."""
    missing = -1 if np.issubdtype(label.dtype, np.integer) else np.nan
    centres = (np.arange(side) + 0.5) * crop / side
    rows = np.floor(centres + round(top)).astype(np.intp)
    columns = np.floor(centres + round(left)).astype(np.intp)
    inside = ((rows >= 0) & (rows < label.shape[0]))[:, None] & (
        (columns >= 0) & (columns < label.shape[1])
    )
    taken = label[rows.clip(0, label.shape[0] - 1)[:, None], columns.clip(0, label.shape[1] - 1)]
    mask = inside if label.ndim == 2 else inside[..., None]
    return np.where(mask, taken, np.asarray(missing, label.dtype))


Draw = Callable[[np.random.Generator, int], list[Sample]]
