"""How well key points are found: share of right ones, and COCO's average precision over OKS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.objects import Keypoints
from edgemtl.data.samples import Sample
from edgemtl.tasks.base import Metric, MetricResult
from edgemtl.tasks.classes import no_label
from edgemtl.tasks.coco_protocol import (
    HIT,
    THRESHOLDS,
    average_over_thresholds,
    point_similarity,
)


@dataclass(frozen=True)
class FoundPoints:
    """Points found in one picture.

    Attributes:
        points: (K, 2) float32 x y in picture pixels.
        scores: (K,) float32 in 0..1: the peak of each heat map; 1 for direct coordinates.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class PointRules:
    """What a metric of key points has to know of its task.

    Attributes:
        task: whose decoded points are read.
        label_kind: the label that they are held against.
        points: their names.
        sigmas: (K,) COCO's constant of each.
        pck: share of the longer side of the box within which a point is right.
        known: a label as key points.
    """

    task: str
    label_kind: str
    points: tuple[str, ...]
    sigmas: NDArray[np.float64]
    pck: float
    known: Callable[[Any], Keypoints]


class PointAccuracy(Metric):
    """PCK and OKS-AP over the largest labelled object of each picture.

    PCK is the share of labelled points that are found nearer than a share of the longer side of the
    object's box; points are pooled over pictures, and each has a figure of its own. OKS-AP is
    COCO's: one answer per picture, its score the mean of its points' (equal ones in the order of
    the pictures), right at ten thresholds of similarity. Other objects of the picture count
    nowhere, since the network answers for one. A point that is not finite is wrong.
    """

    found = ("_right", "_labelled", "_scores", "_similar")

    def __init__(self, rules: PointRules) -> None:
        self._rules = rules
        self._right = np.zeros(len(rules.points), np.int64)
        self._labelled = np.zeros(len(rules.points), np.int64)
        self._scores: list[float] = []
        self._similar: list[float] = []
        self._seen: set[str] = set()

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._rules.label_kind)
        if label is None:
            self._seen.update(sample.labels)
            return
        known = self._rules.known(label)
        largest = known.largest()
        if largest is None:
            return
        found: FoundPoints = decoded[self._rules.task]
        wanted = known.points[largest]
        there = np.isfinite(wanted).all(axis=1)
        distance = np.linalg.norm(found.points - wanted, axis=1)
        near = np.nan_to_num(distance, nan=np.inf) <= self._rules.pck * known.sides[largest]
        self._right += there & near
        self._labelled += there
        far: NDArray[np.float32] = np.where(np.isfinite(found.points), found.points, 1e12)
        area = float(known.areas[largest])
        self._similar.append(point_similarity(far, wanted, area, self._rules.sigmas))
        self._scores.append(float(np.mean(found.scores)))

    def result(self) -> MetricResult:
        nothing: dict[str, float | None] = {"pck": None, "oks_ap": None}
        total = int(self._labelled.sum())
        if total == 0:
            return MetricResult(nothing, 0, no_label(self._rules.label_kind, self._seen))
        scores, similar = np.array(self._scores), np.array(self._similar)
        hits = np.where(similar[None] >= THRESHOLDS[:, None], HIT, 0)
        precision = average_over_thresholds(scores, hits, len(similar))
        shares = self._right / np.maximum(self._labelled, 1)
        classes = {
            name: float(share) if count else None
            for name, share, count in zip(self._rules.points, shares, self._labelled, strict=True)
        }
        values = {"pck": float(self._right.sum() / total), "oks_ap": float(precision.mean())}
        return MetricResult(values, total, classes=classes)
