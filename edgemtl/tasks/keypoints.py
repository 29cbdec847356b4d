"""Key points of the one object in a picture, by heat maps or directly; PCK and OKS-AP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.objects import Keypoints
from edgemtl.data.preprocess import Part, View
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import Arrays, Metric, MetricSpec, Task, TaskSpec, require_shape
from edgemtl.tasks.classes import class_names
from edgemtl.tasks.drawing import pixel
from edgemtl.tasks.keypoint_metric import FoundPoints, PointAccuracy, PointRules
from edgemtl.tasks.registry import register_task

ENCODINGS = ("heatmaps", "coordinates")
#: standard deviation of the peak that a heat map should show, in its pixels (Simple Baselines)
PEAK_PX = 2.0
#: how far people who label put a point apart, for an object of area 1: about the mean of COCO's
SIGMA = 0.07
#: a found point is shown from this score on
SHOWN = 0.2


@register_task
class KeypointTask(Task):
    """Named points of one object: a person, a hand, a plate's corners.

    Output: ``<name>.heatmaps`` (K, h, w), a peak of height 1 where the point is; or
    ``<name>.coordinates`` (K, 2), x and y as shares of the canvas's width and height.

    Args:
        name: task name.
        points: names of the K points, in the order of the output.
        encoding: ``heatmaps`` or ``coordinates``.
        label: which label of a picture it learns from; by default ``keypoints``.
        mirrored: pairs of points that change places when left and right are exchanged; an empty
            list where none does. None, the default, keeps training from mirroring pictures.
        sigmas: (K,) how far people who label put each point apart, for an object of area 1 (COCO's
            constants); by default 0.07 each.
        pck: a point is right when it is nearer than this share of the longer side of the box.
    """

    kind = "keypoints"
    primary = MetricSpec("pck", "PCK", "higher")
    secondary = (MetricSpec("oks_ap", "OKS-AP", "higher"),)
    class_figure = MetricSpec("pck", "PCK", "higher")

    def __init__(
        self,
        name: str,
        points: Sequence[str],
        encoding: str = "heatmaps",
        label: str = "keypoints",
        mirrored: Sequence[Sequence[str]] | None = None,
        sigmas: Sequence[float] | None = None,
        pck: float = 0.2,
    ) -> None:
        super().__init__(name)
        self.points = class_names(points, self.kind, least=1)
        if encoding not in ENCODINGS:
            raise ValueError(f"'encoding' is one of {', '.join(ENCODINGS)}")
        self.encoding, self.label_kind, self.pck = encoding, str(label), float(pck)
        self.pairs = None if mirrored is None else tuple((str(a), str(b)) for a, b in mirrored)
        named = [one for pair in self.pairs or () for one in pair]
        if len(set(named)) != len(named) or not set(named) <= set(self.points):
            raise ValueError("'mirrored' is pairs of names of points, each at most once")
        given = [SIGMA] * len(self.points) if sigmas is None else [float(s) for s in sigmas]
        if len(given) != len(self.points) or not all(0 < s < math.inf for s in given):
            raise ValueError("'sigmas' is a number above 0 for each point")
        if not 0 < self.pck < math.inf:
            raise ValueError("'pck' is a number above 0")
        self.sigmas = np.array(given)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.{self.encoding}",)

    def spec(self) -> TaskSpec:
        options: dict[str, Any] = {
            "points": list(self.points),
            "encoding": self.encoding,
            "label": self.label_kind,
            "mirrored": None if self.pairs is None else [list(pair) for pair in self.pairs],
            "sigmas": self.sigmas.tolist(),
            "pck": self.pck,
        }
        return TaskSpec(self.name, self.kind, options)

    def known(self, label: Any) -> Keypoints:
        """A label as :class:`Keypoints`: these, or a list of the points of one object.

        A point of a list is ``[x, y]``, or ``[x, y, v]`` as in COCO, where a ``v`` of 0 says that
        it is not labelled, or None; all in pixels of the picture. ``3 K`` numbers in a row are
        COCO's own form.

        Raises:
            InputRefused: another label, or another number of points.
        """
        if isinstance(label, Keypoints) and label.points.shape[1:] == (len(self.points), 2):
            return label
        try:
            rows = list(label)
            if len(rows) == 3 * len(self.points) and not isinstance(rows[0], list | tuple):
                rows = [rows[at : at + 3] for at in range(0, len(rows), 3)]
            table = np.full((len(self.points), 2), np.nan, np.float32)
            if len(rows) != len(self.points):
                raise ValueError
            for index, row in enumerate(rows):
                if row is not None and (len(row) == 2 or row[2] > 0):
                    table[index] = [float(value) for value in row[:2]]
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise InputRefused(
                f"a label of task '{self.name}' is not {len(self.points)} points: "
                f"{str(label)[:60]!r}",
                hint="each is [x, y] or [x, y, v] in pixels of the picture, v = 0 for none",
            ) from error
        return Keypoints.of_points(table)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, K, 2) float32 points of each picture's largest object, NaN where not labelled.

        As shares of the canvas's width and height.
        """
        size = np.array([canvas_size[1], canvas_size[0]], np.float32)
        found = torch.full((len(labels), len(self.points), 2), math.nan)
        for index, label in enumerate(labels):
            if label is None:
                continue
            known = self.known(label)
            largest = known.largest()
            if largest is not None:
                found[index] = torch.from_numpy(known.points[largest] / size)
        return found

    def to_canvas(self, label: Any, view: View) -> Keypoints | None:
        return None if label is None else self.known(label).on_canvas(view)

    def mirror(self, label: Any, width: int) -> Keypoints | None:
        if self.pairs is None:
            return None
        order = np.arange(len(self.points))
        for a, b in self.pairs:
            i, j = self.points.index(a), self.points.index(b)
            order[[i, j]] = j, i
        return self.known(label).mirrored(width, order)

    def crop(self, label: Any, part: Part) -> Keypoints:
        return self.known(label).cropped(part)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        wanted: tuple[int | str, ...] = ("B", len(self.points), 2)
        if self.encoding == "heatmaps":
            wanted = ("B", len(self.points), "h", "w")
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], wanted)

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``peak``: squared error of the labelled heat maps over the power of what they should be.

        ``distance`` for coordinates: mean error of x and y as a share of the canvas.
        """
        found = outputs[self.outputs[0]].float()
        term = "peak" if self.encoding == "heatmaps" else "distance"
        known = targets.isfinite().all(dim=-1)
        if not bool(known.any()):
            return {term: found.sum() * 0.0}
        if self.encoding == "coordinates":
            return {term: (found[known] - targets[known]).abs().mean()}
        wanted = peaks(targets[known], (found.shape[2], found.shape[3]))
        error = (found[known] - wanted).square().sum()
        return {term: error / wanted.square().sum().clamp(min=1e-6)}

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> FoundPoints:
        found = np.asarray(outputs[self.outputs[0]], np.float32)
        height, width = view.canvas_size
        if self.encoding == "coordinates":
            shares, scores = found, np.ones(len(found), np.float32)
        else:
            shares, scores = highest(found)
        points = view.to_image(shares * np.array([width, height], np.float32))
        return FoundPoints(points, scores)

    def new_metric(self) -> Metric:
        rules = PointRules(
            self.name, self.label_kind, self.points, self.sigmas, self.pck, self.known
        )
        return PointAccuracy(rules)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        found: FoundPoints = decoded[self.name]
        radius = max(2, round(min(image.shape[:2]) / 120))
        for (x, y), score in zip(found.points, found.scores, strict=True):
            if score >= SHOWN:
                cv2.circle(image, pixel(x, y), radius, (60, 200, 255), -1, cv2.LINE_AA)
        return image

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """Point -> x, y in pixels and score, of those that are shown."""
        found: FoundPoints = decoded[self.name]
        return {
            name: {"x": float(point[0]), "y": float(point[1]), "score": float(score)}
            for name, point, score in zip(self.points, found.points, found.scores, strict=True)
            if score >= SHOWN and np.isfinite(point).all()
        }


def peaks(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 2) shares of the canvas -> (n, h, w) heat maps, a Gaussian of height 1 at each point.

    The centre of the first pixel lies half a pixel inside the canvas.
    """
    height, width = size
    x = torch.arange(width, dtype=torch.float32) + 0.5 - shares[:, :1] * width
    y = torch.arange(height, dtype=torch.float32) + 0.5 - shares[:, 1:] * height
    square = x.square()[:, None, :] + y.square()[:, :, None]
    return (-square / (2 * PEAK_PX**2)).exp()


def highest(maps: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(K, h, w) heat maps -> (K, 2) shares of the canvas and (K,) heights in 0..1.

    The place of the highest pixel, a quarter of a pixel towards its higher neighbour on each axis
    (Stacked Hourglass Networks, section 3). NaN where a map is not finite.
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, -1)
    real = np.isfinite(flat).all(axis=1)
    best = np.where(real, np.nan_to_num(flat).argmax(axis=1), 0)
    y, x = np.divmod(best, width)
    rows = np.arange(count)
    padded = np.pad(np.nan_to_num(maps), ((0, 0), (1, 1), (1, 1)), mode="edge")
    right, left = padded[rows, y + 1, x + 2], padded[rows, y + 1, x]
    below, above = padded[rows, y + 2, x + 1], padded[rows, y, x + 1]
    places = np.stack(
        [
            (x + 0.5 + 0.25 * np.sign(right - left)) / width,
            (y + 0.5 + 0.25 * np.sign(below - above)) / height,
        ],
        axis=1,
    )
    places[~real] = np.nan
    scores = np.where(real, np.clip(np.nan_to_num(flat).max(axis=1), 0, 1), 0)
    return places.astype(np.float32), scores.astype(np.float32)
