"""Surface normals: the direction a surface faces at every pixel; mean angular error."""

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
from edgemtl.tasks.dense_maps import stack_maps, to_canvas, upsampled
from edgemtl.tasks.registry import register_task

#: below this length a vector has no direction
SHORTEST = 1e-6


@register_task
class Normals(Task):
    """A unit vector for every pixel.

    Output: ``<name>.normals`` (3, h, w) of any length, of the canvas's resolution or a coarser one.
    Labels are (h, w, 3) float32 unit vectors, NaN where not labelled. What the axes are is the data
    set's choice; those that we derive from depth have x right, y up, z towards the camera.

    Args:
        name: task name.
    """

    kind = "normals"
    label_kind = "normals"
    label_is_map = True
    primary = MetricSpec("mean_error_deg", "normals error", "lower", "deg")
    secondary = (MetricSpec("median_error_deg", "median normals error", "lower", "deg"),)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.normals",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) float32 of (H, W, 3) labels; NaN where not labelled."""
        stacked = stack_maps(labels, canvas_size, np.float32(np.nan), (3,))
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", 3, "h", "w"))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``l1``: mean absolute difference per component after giving the answer length 1."""
        answer = outputs[self.outputs[0]].float()
        labelled = targets.isfinite().all(dim=1)
        if not bool(labelled.any()):
            return {"l1": answer.sum() * 0.0}
        answer = upsampled(answer, (targets.shape[2], targets.shape[3]))
        unit = F.normalize(answer, dim=1, eps=SHORTEST)
        # by index, because a product with a mask would make NaN of what is not labelled
        difference = unit.permute(0, 2, 3, 1)[labelled] - targets.permute(0, 2, 3, 1)[labelled]
        return {"l1": difference.abs().mean()}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(h, w, 3) float32 unit vectors on the picture's pixels; zero where it has no length."""
        planes = [view.crop_to_image(to_canvas(plane, view)) for plane in outputs[self.outputs[0]]]
        vectors = np.stack(planes, axis=-1)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, SHORTEST), np.float32)

    def new_metric(self) -> Metric:
        return AngularError(self.name)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The vectors as colours: red x, green y, blue z, from -1 dark to 1 bright."""
        vectors = np.nan_to_num(decoded[self.name], posinf=0.0, neginf=0.0)
        colours = (np.clip(vectors, -1, 1) + 1) * 127.5
        return np.ascontiguousarray(colours[..., ::-1].astype(np.uint8))

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, list[float]] | None:
        """Mean vector of the picture; None when a component is not finite."""
        mean = decoded[self.name].reshape(-1, 3).mean(axis=0)
        if not np.isfinite(mean).all():
            return None
        return {"mean_direction": [float(value) for value in mean]}


class AngularError(Metric):
    """Mean and median angle in degrees between answer and label, pooled over all pixels.

    The median is exact to a hundredth of a degree. An answer without a direction is 90 degrees off.
    """

    _BINS = 18000

    found = ("_sums", "_counts", "_broken")

    def __init__(self, task: str) -> None:
        self._task = task
        #: per picture, so that parts of a data set add up to the bits of the whole
        self._sums: list[float] = []
        self._counts = np.zeros(self._BINS + 1, np.int64)
        self._broken = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("normals")
        if label is None:
            return
        labelled = np.isfinite(label).all(axis=-1)
        answer = decoded[self._task][labelled].astype(np.float64)
        self._broken += int((~np.isfinite(answer)).any(axis=-1).sum())
        truth = label[labelled].astype(np.float64)
        # atan2 stays exact for tiny angles, where the cosine is 1 to all digits
        sine = np.linalg.norm(np.cross(answer, truth), axis=-1)
        angle = np.degrees(np.arctan2(sine, (answer * truth).sum(axis=-1)))
        angle = np.where((np.abs(answer) > 0).any(axis=-1), angle, 90.0)
        if self._broken:
            return
        self._sums.append(float(angle.sum()))
        bins = np.round(angle / 180 * self._BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=self._BINS + 1)

    def result(self) -> MetricResult:
        nothing: dict[str, float | None] = {"mean_error_deg": None, "median_error_deg": None}
        count = int(self._counts.sum())
        if self._broken:
            note = f"the network answered NaN or infinity at {self._broken} labelled pixels"
            return MetricResult(nothing, self._broken, note)
        if count == 0:
            return MetricResult(nothing, 0, "no labelled pixel")
        half = int(np.searchsorted(self._counts.cumsum(), (count + 1) // 2))
        return MetricResult(
            {
                "mean_error_deg": sum(self._sums) / count,
                "median_error_deg": half * 180 / self._BINS,
            },
            count,
        )
