"""How well objects are found: COCO's mean average precision, of each class and over all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.objects import Objects
from edgemtl.data.samples import Sample
from edgemtl.tasks.base import Metric, MetricResult
from edgemtl.tasks.classes import no_label
from edgemtl.tasks.coco_protocol import (
    MOST_ANSWERS,
    THRESHOLDS,
    average_over_thresholds,
    box_overlap,
    outcomes,
)


@dataclass(frozen=True)
class FoundObjects:
    """Objects found in one picture, best first.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2 in picture pixels.
        scores: (n,) float32 in 0..1.
        classes: (n,) int64.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


class ObjectPrecision(Metric):
    """Mean over classes of COCO's AP (overlaps 0.50 to 0.95), and the same at 0.50 alone.

    Over the classes that are labelled at least once, all sizes, the best 100 of a picture and
    class. Objects of classes that the task does not have count nowhere.

    Args:
        task: whose decoded objects are read.
        label_kind: the label that they are held against.
        classes: their names.
        known: a label as objects, and their classes' numbers, -1 for other classes.
    """

    found = ("_scores", "_classes", "_outcomes", "_objects")

    def __init__(
        self,
        task: str,
        label_kind: str,
        classes: Sequence[str],
        known: Callable[[Any], tuple[Objects, NDArray[np.int64]]],
    ) -> None:
        self._task, self._label_kind, self._names = task, label_kind, tuple(classes)
        self._known = known
        self._scores: list[NDArray[np.float32]] = []
        self._classes: list[NDArray[np.int64]] = []
        #: per picture (answers * thresholds,), answer by answer
        self._outcomes: list[NDArray[np.int8]] = []
        self._objects = np.zeros(len(self._names), np.int64)
        self._seen: set[str] = set()

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._label_kind)
        if label is None:
            self._seen.update(sample.labels)
            return
        wanted, numbers = self._known(label)
        found: FoundObjects = decoded[self._task]
        for number in range(len(self._names)):
            theirs = wanted.take(numbers == number)
            own = np.flatnonzero(found.classes == number)[:MOST_ANSWERS]
            self._objects[number] += int((~theirs.crowd).sum())
            if len(own) == 0:
                continue
            overlap = box_overlap(found.boxes[own], theirs.boxes, theirs.crowd)
            self._scores.append(found.scores[own])
            self._classes.append(np.full(len(own), number, np.int64))
            self._outcomes.append(outcomes(overlap, theirs.crowd, theirs.crowd).T.ravel())

    def result(self) -> MetricResult:
        total = int(self._objects.sum())
        if total == 0:
            nothing: dict[str, float | None] = {"map": None, "map50": None}
            note = "no labelled object of one of the task's classes"
            return MetricResult(
                nothing, 0, no_label(self._label_kind, self._seen) if self._seen else note
            )
        scores = np.concatenate(self._scores) if self._scores else np.zeros(0, np.float32)
        of = np.concatenate(self._classes) if self._classes else np.zeros(0, np.int64)
        flat = np.concatenate(self._outcomes) if self._outcomes else np.zeros(0, np.int8)
        outcome = flat.reshape(-1, len(THRESHOLDS)).T
        classes: dict[str, float | None] = dict.fromkeys(self._names)
        each = []
        for number in np.flatnonzero(self._objects):
            own = of == number
            count = int(self._objects[number])
            precision = average_over_thresholds(scores[own], outcome[:, own], count)
            classes[self._names[number]] = float(precision.mean())
            each.append(precision)
        mean = np.mean(each, axis=0)
        values = {"map": float(mean.mean()), "map50": float(mean[0])}
        return MetricResult(values, total, classes=classes)
