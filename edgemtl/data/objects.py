"""Labels of objects in a picture: boxes with classes, and named points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.preprocess import Part, View

#: area of an object as a share of its box, where only the box is known: the mean over people of
#: COCO, as CrowdPose and others take it
AREA_OF_BOX = 0.53


@dataclass(frozen=True)
class Objects:
    """Labelled objects of one picture, in pixels of that picture.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2.
        classes: of each, a name or a number.
        crowd: (n,) bool: a box around many that nobody told apart; what is found in it counts
            neither way.
    """

    boxes: NDArray[np.float32]
    classes: tuple[str | int, ...]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Objects:
        """The objects selected by an index or a boolean mask."""
        places = np.arange(len(self))[index]
        names = tuple(self.classes[place] for place in places)
        return Objects(self.boxes[places], names, self.crowd[places])

    def on_canvas(self, view: View) -> Objects:
        """In pixels of the canvas that the picture lies on."""
        shift = np.array([view.left, view.top] * 2, np.float32)
        boxes = (self.boxes * np.float32(view.scale) + shift).astype(np.float32)
        return Objects(boxes, self.classes, self.crowd)

    def mirrored(self, width: float) -> Objects:
        """Of the picture of this width with left and right exchanged."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = np.float32(width) - self.boxes[:, [2, 0]]
        return Objects(boxes, self.classes, self.crowd)

    def cropped(self, part: Part, least: float = 0.3) -> Objects:
        """Of a part: boxes cut at its edges, without those of which less than ``least`` is left."""
        low = np.array([part.left, part.top] * 2, np.float32)
        high = np.array([part.width, part.height] * 2, np.float32)
        boxes = np.clip(self.boxes - low, 0, high)
        kept = _areas(boxes) >= least * np.maximum(_areas(self.boxes), 1e-6)
        return Objects(boxes, self.classes, self.crowd).take(kept)


@dataclass(frozen=True)
class Keypoints:
    """Named points of labelled objects of one picture, in pixels of that picture.

    Attributes:
        points: (n, K, 2) float32 x y; NaN where not labelled.
        areas: (n,) float32 square pixels of each object, which errors are held against.
        sides: (n,) float32 pixels, the longer side of each object's box.
    """

    points: NDArray[np.float32]
    areas: NDArray[np.float32]
    sides: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)

    @staticmethod
    def of_points(points: NDArray[np.float32]) -> Keypoints:
        """One object of which only the points are known: its box is the one around them.

        Args:
            points: (K, 2) x y, NaN where not labelled.
        """
        known = points[np.isfinite(points).all(axis=1)]
        width, height = np.ptp(known, axis=0) if len(known) else (0.0, 0.0)
        area = max(float(width) * float(height) * AREA_OF_BOX, 1.0)
        side = max(float(width), float(height), 1.0)
        return Keypoints(points[None], np.array([area], np.float32), np.array([side], np.float32))

    def largest(self) -> int | None:
        """The largest object with a labelled point; None where there is none."""
        labelled = np.isfinite(self.points).any(axis=(1, 2))
        if not labelled.any():
            return None
        return int(np.where(labelled, self.areas, -1).argmax())

    def on_canvas(self, view: View) -> Keypoints:
        """In pixels of the canvas that the picture lies on."""
        shift = np.array([view.left, view.top], np.float32)
        scale = np.float32(view.scale)
        points = (self.points * scale + shift).astype(np.float32)
        return Keypoints(points, self.areas * scale**2, self.sides * scale)

    def mirrored(self, width: float, order: NDArray[np.intp]) -> Keypoints:
        """Of the picture of this width with left and right exchanged.

        Args:
            width: in pixels.
            order: (K,) which point takes the place of each.
        """
        points = self.points[:, order].copy()
        points[..., 0] = np.float32(width) - points[..., 0]
        return Keypoints(points, self.areas, self.sides)

    def cropped(self, part: Part) -> Keypoints:
        """Of a part; points outside it are not labelled any more."""
        points = self.points - np.array([part.left, part.top], np.float32)
        inside = (points >= 0).all(axis=2) & (points < [part.width, part.height]).all(axis=2)
        points[~inside] = np.nan
        return Keypoints(points, self.areas, self.sides)


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    extent = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(extent[:, 0] * extent[:, 1], np.float32)
