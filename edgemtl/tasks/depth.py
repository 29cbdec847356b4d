"""Depth per pixel in metres; root mean squared error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
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
from edgemtl.tasks.dense_maps import mirrored_map, stack_maps, to_canvas, upsampled
from edgemtl.tasks.registry import register_task

#: share of the depth colour in the drawn overlay
OVERLAY = 0.6


def labelled_depth(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a depth label exists: NaN and 0 (what sensors write for "no echo") mean missing."""
    return np.asarray(np.isfinite(depth) & (depth > 0), np.bool_)


@register_task
class Depth(Task):
    """Distance of every pixel.

    Output: ``<name>.depth`` (1, h, w) in metres, of the canvas's resolution or a coarser one.

    Args:
        name: task name.
    """

    kind = "depth"
    label_kind = "depth"
    label_is_map = True
    primary = MetricSpec("rmse_m", "depth RMSE", "lower", "m")
    secondary = (MetricSpec("abs_rel", "depth abs. rel. error", "lower"),)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.depth",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, H, W) float32 metres of (H, W) labels; NaN where not labelled."""
        return torch.from_numpy(stack_maps(labels, canvas_size, np.float32(np.nan)))

    def mirror(self, label: NDArray[Any], width: int) -> NDArray[Any]:
        return mirrored_map(label)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", 1, "h", "w"))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``l1``: mean absolute error in metres over labelled pixels of the canvas."""
        depth = outputs[self.outputs[0]].float()
        labelled = targets.isfinite() & (targets > 0)
        if not bool(labelled.any()):
            return {"l1": depth.sum() * 0.0}
        depth = upsampled(depth, (targets.shape[1], targets.shape[2]))[:, 0]
        return {"l1": (depth[labelled] - targets[labelled]).abs().mean()}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(h, w) float32 metres on the picture's pixels; what is below 0 becomes 0."""
        metres = view.crop_to_image(to_canvas(outputs[self.outputs[0]][0], view))
        return np.maximum(metres, np.float32(0))

    def new_metric(self) -> Metric:
        return DepthError(self.name)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Tint every pixel by its depth, near red to far blue, stretched over the picture."""
        depth: NDArray[np.float32] = np.nan_to_num(decoded[self.name], posinf=0.0, neginf=0.0)
        low, high = np.percentile(depth, (2, 98))
        level = (high - depth) / max(float(high - low), 1e-6)
        level = (np.clip(level, 0, 1) * 255).astype(np.uint8)
        colours = cv2.applyColorMap(level, cv2.COLORMAP_TURBO)
        return np.asarray(cv2.addWeighted(image, 1 - OVERLAY, colours, OVERLAY, 0), np.uint8)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, float] | None:
        """Nearest, median and farthest depth in metres; None when no pixel is finite."""
        metres = decoded[self.name]
        finite = metres[np.isfinite(metres)]
        if finite.size == 0:
            return None
        return {
            "nearest_m": float(finite.min()),
            "median_m": float(np.median(finite)),
            "farthest_m": float(finite.max()),
        }


class DepthError(Metric):
    """Root mean squared error in metres and mean |error| / depth, over all labelled pixels.

    Pixels are pooled over all pictures, as in the usual NYUD-v2 protocol.
    """

    found = ("_squared", "_relative", "_count", "_broken")

    def __init__(self, task: str) -> None:
        self._task = task
        #: per picture, so that parts of a data set add up to the bits of the whole
        self._squared: list[float] = []
        self._relative: list[float] = []
        self._count = 0
        self._broken = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("depth")
        if label is None:
            return
        labelled = labelled_depth(label)
        truth = label[labelled].astype(np.float64)
        error = np.abs(decoded[self._task][labelled].astype(np.float64) - truth)
        self._squared.append(float((error**2).sum()))
        self._relative.append(float((error / truth).sum()))
        self._count += len(truth)
        self._broken += int((~np.isfinite(error)).sum())

    def result(self) -> MetricResult:
        nothing: dict[str, float | None] = {"rmse_m": None, "abs_rel": None}
        if self._count == 0:
            return MetricResult(nothing, 0, "no labelled pixel")
        if self._broken:
            note = f"the network answered NaN or infinity at {self._broken} labelled pixels"
            return MetricResult(nothing, self._count, note)
        return MetricResult(
            {
                "rmse_m": float(np.sqrt(sum(self._squared) / self._count)),
                "abs_rel": sum(self._relative) / self._count,
            },
            self._count,
        )
