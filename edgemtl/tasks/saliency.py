"""Saliency: what stands out of a picture, as a probability per pixel; largest F-measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
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
from edgemtl.tasks.dense_maps import balanced_cross_entropy, mirrored_map, probabilities, stack_maps
from edgemtl.tasks.registry import register_task

#: weight of recall against precision in the F-measure, as is usual for saliency
BETA_SQUARED = 0.3
#: a pixel counts as salient from one of these probabilities on
THRESHOLDS = np.linspace(0.05, 0.95, 19)
#: brightness that is left where nothing is salient, in drawings
BACKGROUND = 0.25


@register_task
class Saliency(Task):
    """A probability for every pixel to belong to what one looks at.

    Output: ``<name>.logits`` (1, h, w), of the canvas's resolution or a coarser one.
    Labels are (h, w) integers: 1 salient, 0 not, -1 not labelled.

    Args:
        name: task name.
    """

    kind = "saliency"
    label_kind = "saliency"
    label_is_map = True
    primary = MetricSpec("max_f", "maxF", "higher")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, H, W) int64 of (H, W) integer labels; -1 where a picture has none."""
        return torch.from_numpy(stack_maps(labels, canvas_size, np.int64(-1)))

    def mirror(self, label: NDArray[Any], width: int) -> NDArray[Any]:
        return mirrored_map(label)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", 1, "h", "w"))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``bce``: cross-entropy in which either kind weighs as the share of the other."""
        labelled = (targets >= 0).sum().clamp(min=1)
        negative = (targets == 0).sum() / labelled
        logits = outputs[self.outputs[0]].float()
        return {"bce": balanced_cross_entropy(logits, targets, negative)}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(h, w) float32 probabilities on the picture's pixels."""
        return probabilities(outputs[self.outputs[0]][0], view)

    def new_metric(self) -> Metric:
        return LargestF(self.name)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Darken what is not salient."""
        share = np.clip(np.nan_to_num(decoded[self.name]), 0, 1)[..., None]
        return np.asarray(image * (BACKGROUND + (1 - BACKGROUND) * share), np.uint8)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, float]:
        """Share of the picture that is salient with a probability of one half or more."""
        return {"salient_share": float((decoded[self.name] >= 0.5).mean())}


class LargestF(Metric):
    """F-measure at the best of 19 thresholds, the same for all pictures.

    At each threshold precision and recall are averaged over pictures and joined to
    ``F = 1.3 P R / (0.3 P + R)``. A picture in which nothing is answered has precision 0; one
    without a salient pixel has no recall and is left out.
    """

    found = ("_precision", "_recall", "_count", "_broken")

    def __init__(self, task: str) -> None:
        self._task = task
        #: per picture and threshold, so that parts of a data set add up to the bits of the whole
        self._precision: list[NDArray[np.float64]] = []
        self._recall: list[NDArray[np.float64]] = []
        self._count = 0
        self._broken = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("saliency")
        if label is None or not (label == 1).any():
            return
        labelled = label >= 0
        truth = label[labelled] == 1
        answer = decoded[self._task][labelled]
        self._broken += int((~np.isfinite(answer)).sum())
        self._count += 1
        precision, recall = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
        for index, threshold in enumerate(THRESHOLDS):
            said = answer >= threshold
            hits = int((said & truth).sum())
            precision[index] = hits / max(int(said.sum()), 1)
            recall[index] = hits / int(truth.sum())
        self._precision.append(precision)
        self._recall.append(recall)

    def result(self) -> MetricResult:
        if self._count == 0:
            return MetricResult({"max_f": None}, 0, "no picture with salient pixels")
        if self._broken:
            note = f"the network answered NaN or infinity at {self._broken} labelled pixels"
            return MetricResult({"max_f": None}, self._count, note)
        precision, recall = sum(self._precision) / self._count, sum(self._recall) / self._count
        below = np.maximum(BETA_SQUARED * precision + recall, 1e-12)
        f = (1 + BETA_SQUARED) * precision * recall / below
        return MetricResult({"max_f": float(f.max())}, self._count)
