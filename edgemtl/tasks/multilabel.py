"""Multi-label classification: any number of classes per picture; mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import (
    Arrays,
    Metric,
    MetricResult,
    MetricSpec,
    Task,
    TaskSpec,
    require_shape,
)
from edgemtl.tasks.classes import class_index, class_names, no_label, sigmoid
from edgemtl.tasks.detection import average_precision
from edgemtl.tasks.drawing import caption
from edgemtl.tasks.registry import register_task

#: parts the classes of one cell of a table
SEPARATOR = "|"
#: what a cell says where none of the classes is there
NONE = "-"
#: probability from which a class is shown
SHOWN = 0.5


@register_task
class Multilabel(Task):
    """Which of several classes a picture has, each by itself.

    Output: ``<name>.logits`` (C,).

    A label is a list of the classes that are there, by name or number (in a table's cell parted by
    ``|``, ``-`` for none), all others being absent; or a mapping from a class to true or false, in
    which a class that is not named is unknown.

    Args:
        name: task name.
        classes: names of the classes, in the order of the logits; one or more, all different.
        label: which label of a picture it learns from, a column of a table; by default ``name``.
        mirror: whether a picture with left and right exchanged has the same classes. False, the
            default, keeps training from mirroring pictures.
    """

    kind = "multilabel"
    primary = MetricSpec("map", "mAP", "higher")
    class_figure = MetricSpec("ap", "AP", "higher")

    def __init__(
        self, name: str, classes: Sequence[str], label: str | None = None, mirror: bool = False
    ) -> None:
        super().__init__(name)
        self.classes = class_names(classes, self.kind, least=1)
        self.label_kind = name if label is None else str(label)
        self.mirrors = bool(mirror)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        options: dict[str, Any] = {"classes": list(self.classes), "label": self.label_kind}
        return TaskSpec(self.name, self.kind, {**options, "mirror": self.mirrors})

    def truth(self, label: Any) -> NDArray[np.float32]:
        """(C,) 1 for a class that is there, 0 for one that is not, NaN for an unknown one.

        Raises:
            InputRefused: no such label, or no such class.
        """
        if isinstance(label, Mapping):
            truth = np.full(len(self.classes), np.nan, np.float32)
            for name, there in label.items():
                if there is not None:
                    truth[class_index(name, self.classes, self.name)] = bool(there)
            return truth
        if isinstance(label, str):
            parts = [part.strip() for part in label.split(SEPARATOR)]
            label = [] if label.strip() == NONE else parts
        elif isinstance(label, int | float | np.number):
            label = [label]
        if not isinstance(label, Sequence):
            raise InputRefused(
                f"a label of task '{self.name}' is {str(label)[:60]!r}, which is no list of classes"
            )
        truth = np.zeros(len(self.classes), np.float32)
        for name in label:
            truth[class_index(name, self.classes, self.name)] = 1
        return truth

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, C) float32: 1, 0, or NaN for a class that is unknown."""
        unknown = np.full(len(self.classes), np.nan, np.float32)
        rows = [unknown if label is None else self.truth(label) for label in labels]
        return torch.from_numpy(np.stack(rows))

    def to_canvas(self, label: Any, view: View) -> Any:
        return label

    def mirror(self, label: Any, width: int) -> Any | None:
        return label if self.mirrors else None

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", len(self.classes)))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``class``: mean binary cross-entropy over the known classes of the pictures."""
        logits = outputs[self.outputs[0]].float()
        known = targets.isfinite()
        if not bool(known.any()):
            return {"class": logits.sum() * 0.0}
        return {"class": F.binary_cross_entropy_with_logits(logits[known], targets[known])}

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Any
    ) -> Tensor:
        """Divergence of the student's probabilities from the teacher's, mean over the classes."""
        found = student[self.outputs[0]].float()
        wanted = teacher[self.outputs[0]].float()
        share = wanted.sigmoid()
        cross = F.binary_cross_entropy_with_logits(found, share)
        return cross - F.binary_cross_entropy_with_logits(wanted, share)

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(C,) probability of each class; NaN where a logit is."""
        return sigmoid(outputs[self.outputs[0]])

    def new_metric(self) -> Metric:
        return MeanAveragePrecision(self)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The classes of probability 0.5 and more, in the corner."""
        there = ", ".join(self.describe(decoded)) or "-"
        return caption(image, decoded, self.name, f"{self.name}: {there}")

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, float]:
        """The classes of probability 0.5 and more, with it."""
        found = decoded[self.name]
        return {
            name: float(value)
            for name, value in zip(self.classes, found, strict=True)
            if value >= SHOWN
        }


class MeanAveragePrecision(Metric):
    """Average precision of each class over the pictures, averaged over the classes.

    Over the classes that a label says are there at least once. A class's pictures are those whose
    labels tell of it; all-point average precision, pictures of equal probability enter together.
    What is not finite comes last.
    """

    found = ("_scores", "_truth")

    def __init__(self, task: Multilabel) -> None:
        self._task = task
        self._scores: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.float32]] = []
        self._seen: set[str] = set()

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._task.label_kind)
        if label is None:
            self._seen.update(sample.labels)
            return
        self._scores.append(np.nan_to_num(decoded[self._task.name], nan=-1.0).astype(np.float32))
        self._truth.append(self._task.truth(label))

    def result(self) -> MetricResult:
        count = len(self._truth)
        if count == 0:
            return MetricResult({"map": None}, 0, no_label(self._task.label_kind, self._seen))
        scores, truth = np.stack(self._scores), np.stack(self._truth)
        classes: dict[str, float | None] = dict.fromkeys(self._task.classes)
        for index, name in enumerate(classes):
            known = np.isfinite(truth[:, index])
            there = truth[known, index] > 0.5
            if there.any():
                classes[name] = average_precision(scores[known, index], there, int(there.sum()))
        found = [value for value in classes.values() if value is not None]
        if not found:
            return MetricResult({"map": None}, count, "no label says that a class is there")
        return MetricResult({"map": float(np.mean(found))}, count, classes=classes)
