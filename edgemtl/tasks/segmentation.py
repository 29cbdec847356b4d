"""Semantic segmentation: one class per pixel; mean intersection over union."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
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
from edgemtl.tasks.dense_maps import mirrored_map, stack_maps, to_canvas, upsampled
from edgemtl.tasks.registry import register_task

#: label of a pixel that is neither trained on nor judged
IGNORED = -1
#: share of the class colour in the drawn overlay
OVERLAY = 0.5


@register_task
class Segmentation(Task):
    """A class for every pixel.

    Output: ``<name>.logits`` (C, h, w), of the canvas's resolution or a coarser one.

    Args:
        name: task name.
        classes: names of the C classes, in channel order; at least two, all different.
    """

    kind = "segmentation"
    label_kind = "segmentation"
    label_is_map = True
    primary = MetricSpec("miou", "mIoU", "higher")
    secondary = (MetricSpec("pixel_accuracy", "pixel accuracy", "higher"),)
    class_figure = MetricSpec("iou", "IoU", "higher")

    def __init__(self, name: str, classes: Sequence[str]) -> None:
        super().__init__(name)
        if isinstance(classes, str) or not all(isinstance(c, str) for c in classes):
            raise TypeError("'classes' is a list of class names")
        self.classes = tuple(classes)
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("segmentation needs two or more classes with different names")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind, {"classes": list(self.classes)})

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, H, W) int64 of (H, W) integer labels; all ignored where a picture has none."""
        for label in labels:
            if label is not None:
                _check_classes(label, len(self.classes))
        return torch.from_numpy(stack_maps(labels, canvas_size, np.int64(IGNORED)))

    def mirror(self, label: NDArray[Any], width: int) -> NDArray[Any] | None:
        return mirrored_map(label)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(
            self, self.outputs[0], shapes[self.outputs[0]], ("B", len(self.classes), "h", "w")
        )

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``class``: mean cross-entropy over labelled pixels of the canvas."""
        logits = outputs[self.outputs[0]].float()
        if not bool((targets != IGNORED).any()):
            return {"class": logits.sum() * 0.0}
        logits = upsampled(logits, (targets.shape[1], targets.shape[2]))
        return {"class": F.cross_entropy(logits, targets, ignore_index=IGNORED)}

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> NDArray[np.int64]:
        """(h, w) int64 class of every pixel of the picture."""
        # Class by class: all resampled logits of a large photo at once would take gigabytes.
        winner = np.zeros(view.image_size, np.int64)
        best = np.full(view.image_size, -np.inf, np.float32)
        for index, logits in enumerate(outputs[self.outputs[0]]):
            resampled = view.crop_to_image(to_canvas(logits, view))
            better = resampled > best
            winner[better] = index
            best[better] = resampled[better]
        return winner

    def new_metric(self) -> Metric:
        return MeanIntersectionOverUnion(
            self.name, len(self.classes), self.label_kind, self.classes
        )

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Tint every pixel with its class's colour; the first class darkens it."""
        colours = palette(len(self.classes))[decoded[self.name]]
        return np.asarray(cv2.addWeighted(image, 1 - OVERLAY, colours, OVERLAY, 0), np.uint8)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, float]:
        """Share of the picture's pixels per class, for the classes that occur."""
        classes: NDArray[np.int64] = decoded[self.name]
        counts = np.bincount(classes.ravel(), minlength=len(self.classes))
        return {
            name: float(count / classes.size)
            for name, count in zip(self.classes, counts, strict=True)
            if count
        }


@register_task
class Parts(Segmentation):
    """Segmentation of people into body parts: segmentation by labels of its own.

    Pictures may carry both kinds of labels (PASCAL-Context does).
    """

    kind = "parts"
    label_kind = "parts"

    def mirror(self, label: NDArray[Any], width: int) -> None:
        """None: a left arm would have to become a right one, and no label says which is which."""
        return None


def palette(classes: int) -> NDArray[np.uint8]:
    """(classes, 3) uint8 BGR colours, the same for everyone: black first, then hues in turn."""
    # Steps of the golden angle keep neighbouring class numbers far apart on the colour wheel.
    hue = np.arange(classes) * 0.381966 % 1 * 180
    value = np.where(np.arange(classes) % 2 == 0, 255, 190)
    hsv = np.stack([hue, np.full(classes, 220.0), value], axis=-1).astype(np.uint8)
    colours = np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0], np.uint8)
    colours[0] = 0
    return colours


def _check_classes(label: NDArray[np.integer[Any]], classes: int) -> None:
    largest = int(label.max(initial=IGNORED))
    if largest >= classes:
        raise InputRefused(
            f"the labels hold class {largest}, the task has classes 0 to {classes - 1}",
            hint="these may be labels of another data set",
        )


class MeanIntersectionOverUnion(Metric):
    """Mean over classes of intersection / union, and the share of pixels classified right.

    Pixels are pooled over all pictures; ignored ones count nowhere. The mean is over the classes
    that occur in the labels: a class nobody labelled has no recall to measure, its false alarms
    still cost the classes they cover.

    Args:
        task: whose decoded classes are read.
        classes: how many there are.
        label_kind: the label that they are held against.
        names: of the classes, for a figure of each; by default none is given.
    """

    found = ("_confusion",)

    def __init__(
        self,
        task: str,
        classes: int,
        label_kind: str = "segmentation",
        names: Sequence[str] = (),
    ) -> None:
        self._names = tuple(names)
        self._task = task
        self._label_kind = label_kind
        self._classes = classes
        #: rows: labelled class, columns: answered class
        self._confusion = np.zeros((classes, classes), np.int64)

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._label_kind)
        if label is None:
            return
        _check_classes(label, self._classes)
        judged = label >= 0
        pairs = label[judged].astype(np.int64) * self._classes + decoded[self._task][judged]
        counts = np.bincount(pairs, minlength=self._classes**2)
        self._confusion += counts.reshape(self._classes, self._classes)

    def result(self) -> MetricResult:
        total = int(self._confusion.sum())
        if total == 0:
            return MetricResult({"miou": None, "pixel_accuracy": None}, 0, "no labelled pixel")
        hits = np.diag(self._confusion)
        labelled, answered = self._confusion.sum(axis=1), self._confusion.sum(axis=0)
        present = labelled > 0
        overlap = hits[present] / (labelled + answered - hits)[present]
        classes: dict[str, float | None] = dict.fromkeys(self._names)
        for index, value in zip(np.flatnonzero(present), overlap, strict=True):
            if self._names:
                classes[self._names[index]] = float(value)
        values = {"miou": float(overlap.mean()), "pixel_accuracy": float(hits.sum() / total)}
        return MetricResult(values, total, classes=classes)
