"""Anchors shared by the face tasks: priors, encoding, matching.

Detection, landmarks and pose of the MOS family answer per anchor ("prior") of one grid. All
coordinates here are pixels of the network's canvas; the variances make the encoding equal to the
published normalised one (papers: RetinaFace / SSD; MOS section 4), because both divide by the
prior's own size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.samples import Faces

#: a face and a prior overlap enough to be trained on (MOS, section 5)
MATCH_IOU = 0.35


@dataclass(frozen=True)
class AnchorSpec:
    """The grid of priors.

    Attributes:
        strides: pixels between priors, one per level.
        sizes: sides in pixels of the square priors at each cell, per level.
        variances: scale of encoded centres and of encoded sizes.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    sizes: tuple[tuple[int, ...], ...] = ((16, 32), (64, 128), (256, 512))
    variances: tuple[float, float] = (0.1, 0.2)

    @property
    def per_cell(self) -> int:
        """Priors per cell, equal on all levels."""
        return len(self.sizes[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "strides": list(self.strides),
            "sizes": [list(sizes) for sizes in self.sizes],
            "variances": list(self.variances),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> AnchorSpec:
        """Parse :meth:`to_dict`; ValueError when levels do not agree."""
        strides = tuple(int(v) for v in data["strides"])
        sizes = tuple(tuple(int(v) for v in level) for level in data["sizes"])
        variances = tuple(float(v) for v in data["variances"])
        if len(strides) != len(sizes) or len({len(level) for level in sizes}) != 1:
            raise ValueError("anchors need one list of sizes per stride, all of one length")
        if min(strides, default=0) < 1 or min((min(s, default=0) for s in sizes), default=0) < 1:
            raise ValueError("anchors need positive strides and sizes")
        if len(variances) != 2 or not all(0 < v < math.inf for v in variances):
            raise ValueError("anchors need two positive variances")
        return AnchorSpec(strides, sizes, (variances[0], variances[1]))

    def count(self, canvas_size: tuple[int, int]) -> int:
        """Number of priors on a canvas (height, width)."""
        height, width = canvas_size
        return sum(
            math.ceil(height / s) * math.ceil(width / s) * len(sizes)
            for s, sizes in zip(self.strides, self.sizes, strict=True)
        )


@lru_cache(maxsize=32)
def priors(spec: AnchorSpec, canvas_size: tuple[int, int]) -> NDArray[np.float32]:
    """(N, 3) float32: centre x, centre y, side, in pixels; ordered by level, row, column, size."""
    height, width = canvas_size
    levels = []
    for stride, sizes in zip(spec.strides, spec.sizes, strict=True):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride,
            (np.arange(columns) + 0.5) * stride,
            np.asarray(sizes, np.float64),
            indexing="ij",
        )
        levels.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
    grid = np.concatenate(levels).astype(np.float32)
    grid.setflags(write=False)
    return grid


def decode_boxes(
    encoded: NDArray[np.float32], grid: NDArray[np.float32], spec: AnchorSpec
) -> NDArray[np.float32]:
    """(n, 4) encoded boxes at n priors -> x1 y1 x2 y2 in canvas pixels."""
    side = grid[:, 2:3]
    centre = grid[:, :2] + encoded[:, :2] * spec.variances[0] * side
    # The clip keeps an untrained or broken network from overflowing exp; 10 is e^2 * 1e3 too big
    # already for any face on a canvas.
    half = side * np.exp(np.clip(encoded[:, 2:] * spec.variances[1], -10, 10)) / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def decode_points(
    encoded: NDArray[np.float32], grid: NDArray[np.float32], spec: AnchorSpec
) -> NDArray[np.float32]:
    """(n, 10) encoded landmarks at n priors -> (n, 5, 2) canvas pixels."""
    offsets = encoded.reshape(-1, 5, 2) * spec.variances[0] * grid[:, None, 2:3]
    return (grid[:, None, :2] + offsets).astype(np.float32)


def encode_boxes(boxes: Tensor, grid: Tensor, spec: AnchorSpec) -> Tensor:
    """Inverse of :func:`decode_boxes` for (n, 4) boxes at n priors."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    side = grid[:, 2:3]
    return torch.cat(
        [
            (centre - grid[:, :2]) / (spec.variances[0] * side),
            torch.log(size / side) / spec.variances[1],
        ],
        dim=1,
    )


def encode_points(points: Tensor, grid: Tensor, spec: AnchorSpec) -> Tensor:
    """Inverse of :func:`decode_points`: (n, 5, 2) -> (n, 10)."""
    return ((points - grid[:, None, :2]) / (spec.variances[0] * grid[:, None, 2:3])).flatten(1)


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4) x (m, 4) boxes x1 y1 x2 y2 -> (n, m) intersection over union in 0..1."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)
    union = area_a[:, None] + area_b[None] - inter
    return np.asarray(inter / np.maximum(union, 1e-9), np.float32)


@dataclass(frozen=True)
class Matches:
    """Which prior of which image answers for which face.

    Attributes:
        image: (p,) index into the batch.
        prior: (p,) index of the prior.
        face: (p,) row in the concatenated faces of the batch.
    """

    image: Tensor
    prior: Tensor
    face: Tensor


def match_faces(grid: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) index of the face each prior answers for, -1 for background.

    A prior answers for its best face from an IoU of 0.35 on; besides, every face claims its best
    prior, so that no face goes untrained however small it is.
    """
    answer = np.full(len(grid), -1, np.int64)
    if len(boxes) == 0:
        return answer
    half = grid[:, 2:3] / 2
    corners = np.concatenate([grid[:, :2] - half, grid[:, :2] + half], axis=1)
    overlap = iou_matrix(corners, boxes)
    best = overlap.argmax(axis=1)
    enough = overlap[np.arange(len(grid)), best] >= MATCH_IOU
    answer[enough] = best[enough]
    # Larger faces claim last: where two faces claim one prior, the smaller has other candidates
    # less often, but its own claim would leave the larger one without its only exact fit.
    for face in np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)):
        claimed = int(overlap[:, face].argmax())
        if overlap[claimed, face] > 0:
            answer[claimed] = face
    return answer


@dataclass
class FaceBatch:
    """Labels of a batch, in canvas pixels, with the matching computed once for all face tasks.

    Attributes:
        faces: of each picture; none in one that nobody labelled.
        canvas_size: (height, width).
        labelled: per picture, whether somebody looked for faces in it.
    """

    faces: Sequence[Faces]
    canvas_size: tuple[int, int]
    labelled: Sequence[bool]
    _matches: dict[AnchorSpec, Matches] = field(default_factory=dict, repr=False)

    def match(self, spec: AnchorSpec) -> Matches:
        """Positive priors of all images."""
        if spec not in self._matches:
            grid = priors(spec, self.canvas_size)
            image, prior, face, offset = [], [], [], 0
            for index, faces in enumerate(self.faces):
                answer = match_faces(grid, faces.boxes)
                positive = np.flatnonzero(answer >= 0)
                image.append(np.full(len(positive), index))
                prior.append(positive)
                face.append(answer[positive] + offset)
                offset += len(faces)
            self._matches[spec] = Matches(
                *(
                    torch.from_numpy(np.concatenate(part).astype(np.int64))
                    for part in (image, prior, face)
                )
            )
        return self._matches[spec]

    def grid(self, spec: AnchorSpec) -> Tensor:
        """(N, 3) priors as a tensor."""
        return torch.from_numpy(priors(spec, self.canvas_size).copy())

    def boxes(self) -> Tensor:
        """(total faces, 4) of the whole batch."""
        return torch.from_numpy(np.concatenate([f.boxes for f in self.faces]))

    def landmarks(self) -> Tensor:
        """(total faces, 5, 2); NaN where not labelled."""
        return torch.from_numpy(np.concatenate([f.landmarks for f in self.faces]))

    def pose(self) -> Tensor:
        """(total faces, 3) yaw pitch roll in degrees; NaN where not labelled."""
        return torch.from_numpy(np.concatenate([f.pose for f in self.faces]))


def collate_faces(labels: Sequence[Any], canvas_size: tuple[int, int]) -> FaceBatch:
    """Batch per-image :class:`Faces`; None is a picture that nobody labelled."""
    faces = [Faces.empty() if found is None else found for found in labels]
    return FaceBatch(faces, canvas_size, [found is not None for found in labels])
