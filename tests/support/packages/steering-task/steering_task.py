"""A kind of task whose label is a number per picture: how far to turn the wheel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import l1_loss

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.tasks import Metric, MetricResult, MetricSpec, Task, TaskSpec, register_task


@register_task
class Steering(Task):
    """Degrees to turn the wheel, positive to the right.

    Output: ``<name>.degrees`` (1,).
    """

    kind = "steering"
    label_kind = "steering"
    primary = MetricSpec("mae_deg", "steering error", "lower", "deg")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.degrees",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def mirror(self, label: float, width: int) -> float:
        return -label

    def collate(self, labels: Sequence[float | None], canvas_size: tuple[int, int]) -> Tensor:
        """(B,) float32 degrees, NaN where a picture has no label."""
        return torch.tensor([np.nan if v is None else v for v in labels], dtype=torch.float32)

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        degrees = outputs[self.outputs[0]].float()[:, 0]
        known = targets.isfinite()
        if not bool(known.any()):
            return {"l1": degrees.sum() * 0.0}
        return {"l1": l1_loss(degrees[known], targets[known])}

    def decode(
        self, outputs: Mapping[str, NDArray[np.float32]], view: View, decoded: Mapping[str, Any]
    ) -> float:
        return float(outputs[self.outputs[0]][0])

    def describe(self, decoded: Mapping[str, Any]) -> float:
        return round(decoded[self.name], 2)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        return image

    def new_metric(self) -> Metric:
        return SteeringError(self.name)


class SteeringError(Metric):
    """Mean absolute error in degrees."""

    found = ("_errors",)  # so that a farm can measure the pictures in parts

    def __init__(self, task: str) -> None:
        self._task = task
        self._errors: list[float] = []

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("steering")
        if label is not None:
            self._errors.append(abs(decoded[self._task] - label))

    def result(self) -> MetricResult:
        value = float(np.mean(self._errors)) if self._errors else None
        return MetricResult({"mae_deg": value}, len(self._errors))
