"""Classification: one class per picture; top-1 accuracy and macro F1."""

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
from edgemtl.tasks.base import (
    Arrays,
    Metric,
    MetricResult,
    MetricSpec,
    Task,
    TaskSpec,
    require_shape,
)
from edgemtl.tasks.classes import class_index, class_names, no_label, softmax
from edgemtl.tasks.drawing import caption
from edgemtl.tasks.registry import register_task

#: number of a picture that has no label
UNLABELLED = -1


@register_task
class Classification(Task):
    """One class for the picture as a whole.

    Output: ``<name>.logits`` (C,).

    Args:
        name: task name.
        classes: names of the C classes, in the order of the logits; two or more, all different.
        label: which label of a picture it learns from, a column of a table; by default ``name``.
            A label is a class's name or its number.
        mirror: whether a picture with left and right exchanged is of the same class. False, the
            default, keeps training from mirroring pictures: an arrow to the left would be one to
            the right.
    """

    kind = "classification"
    primary = MetricSpec("top1", "top-1", "higher")
    secondary = (MetricSpec("macro_f1", "macro F1", "higher"),)
    class_figure = MetricSpec("f1", "F1", "higher")

    def __init__(
        self, name: str, classes: Sequence[str], label: str | None = None, mirror: bool = False
    ) -> None:
        super().__init__(name)
        self.classes = class_names(classes, self.kind)
        self.label_kind = name if label is None else str(label)
        self.mirrors = bool(mirror)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        options: dict[str, Any] = {"classes": list(self.classes), "label": self.label_kind}
        return TaskSpec(self.name, self.kind, {**options, "mirror": self.mirrors})

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B,) int64 class numbers; -1 where a picture has no label."""
        numbers = [
            UNLABELLED if label is None else class_index(label, self.classes, self.name)
            for label in labels
        ]
        return torch.tensor(numbers, dtype=torch.int64)

    def mirror(self, label: Any, width: int) -> Any | None:
        return label if self.mirrors else None

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        output = self.outputs[0]
        require_shape(self, output, shapes[output], ("B", len(self.classes)))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``class``: mean cross-entropy over the labelled pictures."""
        logits = outputs[self.outputs[0]].float()
        if not bool((targets != UNLABELLED).any()):
            return {"class": logits.sum() * 0.0}
        return {"class": F.cross_entropy(logits, targets, ignore_index=UNLABELLED)}

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Any
    ) -> Tensor:
        """Divergence of the student's classes from the teacher's, mean over the pictures."""
        found = student[self.outputs[0]].float().log_softmax(dim=-1)
        wanted = teacher[self.outputs[0]].float().softmax(dim=-1)
        return F.kl_div(found, wanted, reduction="batchmean")

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The logits less their mean: what all of them share does not change any class."""
        name = self.outputs[0]
        logits = outputs[name].float()
        return {name: (logits - logits.mean(dim=-1, keepdim=True), logits.new_ones(()))}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(C,) probability of each class; all NaN where a logit is not finite."""
        return softmax(outputs[self.outputs[0]])

    def new_metric(self) -> Metric:
        return ClassAccuracy(self.name, self.classes, self.label_kind)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The likeliest class and its probability, in the corner."""
        found = decoded[self.name]
        best = int(found.argmax())
        text = f"{self.name}: {self.classes[best]} {found[best]:.2f}"
        return caption(image, decoded, self.name, text)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, Any] | None:
        """The likeliest class and its probability; None where a logit is not finite."""
        found = decoded[self.name]
        if not np.isfinite(found).all():
            return None
        best = int(found.argmax())
        return {"class": self.classes[best], "probability": float(found[best])}


class ClassAccuracy(Metric):
    """Share of the pictures whose likeliest class is the labelled one, and F1 over the classes.

    F1 of a class is 2 hits / (labelled + answered), pooled over all pictures. The mean is over the
    classes that occur in the labels. A picture with a logit that is not finite is answered wrong.
    """

    found = ("_confusion",)

    def __init__(self, task: str, classes: Sequence[str], label_kind: str) -> None:
        self._task, self._classes, self._label_kind = task, tuple(classes), label_kind
        #: rows: labelled class, columns: answered class; the last column is no answer
        self._confusion = np.zeros((len(self._classes), len(self._classes) + 1), np.int64)
        self._seen: set[str] = set()

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._label_kind)
        if label is None:
            self._seen.update(sample.labels)
            return
        found = decoded[self._task]
        answer = int(found.argmax()) if np.isfinite(found).all() else len(self._classes)
        self._confusion[class_index(label, self._classes, self._task), answer] += 1

    def result(self) -> MetricResult:
        total = int(self._confusion.sum())
        if total == 0:
            nothing: dict[str, float | None] = {"top1": None, "macro_f1": None}
            return MetricResult(nothing, 0, no_label(self._label_kind, self._seen))
        square = self._confusion[:, :-1]
        hits, labelled = np.diag(square), self._confusion.sum(axis=1)
        answered = square.sum(axis=0)
        present = labelled > 0
        f1 = 2 * hits[present] / (labelled + answered)[present]
        classes: dict[str, float | None] = dict.fromkeys(self._classes)
        for index, value in zip(np.flatnonzero(present), f1, strict=True):
            classes[self._classes[index]] = float(value)
        values = {"top1": float(hits.sum() / total), "macro_f1": float(f1.mean())}
        return MetricResult(values, total, classes=classes)
