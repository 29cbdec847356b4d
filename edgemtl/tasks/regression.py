"""Regression: one number per picture; mean absolute error, on a circle where the number is one."""

from __future__ import annotations

import math
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
from edgemtl.sinks import check_name
from edgemtl.tasks.base import (
    Arrays,
    Metric,
    MetricResult,
    MetricSpec,
    Task,
    TaskSpec,
    require_shape,
)
from edgemtl.tasks.classes import no_label
from edgemtl.tasks.drawing import caption
from edgemtl.tasks.registry import register_task

ENCODINGS = ("value", "sin_cos")
MIRRORS = ("none", "same", "negated")


@register_task
class Regression(Task):
    """A number that is said of the picture as a whole.

    Output: ``<name>.value``: (1,) the number itself, or (2,) sine and cosine of its place on the
    circle, of any length.

    Args:
        name: task name.
        unit: printed behind the number ("km/h"); labels and the output are in it.
        label: which label of a picture it learns from, a column of a table; by default ``name``.
        circular: the two ends of a range that meet, such as (0, 360): 359 and 1 are 2 apart then.
        encoding: ``value`` or ``sin_cos``; the second needs ``circular``.
        scale: an error that counts as large, in the unit. The loss is in this measure, so that a
            task in millimetres does not drown one in metres.
        mirror: what the number becomes when left and right of the picture are exchanged: ``same``,
            ``negated`` (an angle to the right becomes one to the left), or ``none``, which keeps
            training from mirroring pictures.
    """

    kind = "regression"

    def __init__(
        self,
        name: str,
        unit: str = "",
        label: str | None = None,
        circular: Sequence[float] | None = None,
        encoding: str = "value",
        scale: float = 1.0,
        mirror: str = "none",
    ) -> None:
        super().__init__(name)
        self.unit = check_name(unit, "the unit of a task") if unit else ""
        self.label_kind = name if label is None else str(label)
        self.circular: tuple[float, float] | None = None
        if circular is not None:
            low, high = (float(end) for end in circular)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError("'circular' is two finite numbers, the lower first")
            self.circular = low, high
        if encoding not in ENCODINGS or (encoding == "sin_cos" and self.circular is None):
            raise ValueError("'encoding' is 'value', or 'sin_cos' with 'circular'")
        if mirror not in MIRRORS:
            raise ValueError(f"'mirror' is one of {', '.join(MIRRORS)}")
        self.encoding, self.mirrors, self.scale = encoding, mirror, float(scale)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError("'scale' is a number above 0")
        self.primary = MetricSpec("mae", "MAE", "lower", self.unit)
        self.secondary = (MetricSpec("rmse", "RMSE", "lower", self.unit),)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.value",)

    @property
    def values(self) -> int:
        """How many numbers the output has."""
        return 2 if self.encoding == "sin_cos" else 1

    def spec(self) -> TaskSpec:
        options: dict[str, Any] = {
            "unit": self.unit,
            "label": self.label_kind,
            "circular": None if self.circular is None else list(self.circular),
            "encoding": self.encoding,
            "scale": self.scale,
            "mirror": self.mirrors,
        }
        return TaskSpec(self.name, self.kind, options)

    def number(self, label: Any) -> float:
        """A label as a number.

        Raises:
            InputRefused: it is none, or not finite.
        """
        try:
            value = math.nan if isinstance(label, bool) else float(label)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise InputRefused(
                f"a label of task '{self.name}' is {str(label)[:60]!r}, which is no finite number",
                hint="leave the cell empty where there is no label",
            )
        return value

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B,) float32 in the unit; NaN where a picture has no label."""
        values = [math.nan if label is None else self.number(label) for label in labels]
        return torch.tensor(values, dtype=torch.float32)

    def mirror(self, label: Any, width: int) -> Any | None:
        if self.mirrors == "none":
            return None
        return self.within(-self.number(label)) if self.mirrors == "negated" else label

    def within(self, value: float) -> float:
        """The same place on the circle inside its range; the number itself without a circle."""
        if self.circular is None or not math.isfinite(value):
            return value
        low, high = self.circular
        return low + (value - low) % (high - low)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", self.values))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``error``: mean smooth L1 in multiples of ``scale``; 1 - cosine of it for ``sin_cos``."""
        found = outputs[self.outputs[0]].float()
        known = targets.isfinite()
        if not bool(known.any()):
            return {"error": found.sum() * 0.0}
        return {"error": self._apart(found[known], targets[known])}

    def _apart(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.encoding == "sin_cos":
            return (1 - F.cosine_similarity(found, self._on_circle(wanted), dim=-1)).mean()
        error = self._difference(found[:, 0], wanted) / self.scale
        return F.smooth_l1_loss(error, torch.zeros_like(error))

    def _difference(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.circular is None:
            return found - wanted
        whole = self.circular[1] - self.circular[0]
        return torch.remainder(found - wanted + whole / 2, whole) - whole / 2

    def _on_circle(self, values: Tensor) -> Tensor:
        """(n,) -> (n, 2) sine and cosine."""
        assert self.circular is not None
        low, high = self.circular
        angle = (values - low) * (2 * math.pi / (high - low))
        return torch.stack([angle.sin(), angle.cos()], dim=-1)

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Any
    ) -> Tensor:
        """As for every task; on a circle relative to the variance of numbers spread over it."""
        if self.circular is None or self.encoding == "sin_cos":
            return super().distil(student, teacher, targets)
        name = self.outputs[0]
        error = self._difference(student[name].float(), teacher[name].float())
        return error.square().mean() * (12 / (self.circular[1] - self.circular[0]) ** 2)

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> float:
        """The number in its unit, inside the range of the circle; NaN where it is not finite."""
        found = outputs[self.outputs[0]].astype(float)
        if not np.isfinite(found).all():
            return math.nan
        if self.encoding == "value":
            return self.within(float(found[0]))
        assert self.circular is not None
        low, high = self.circular
        angle = math.atan2(float(found[0]), float(found[1]))
        return self.within(low + angle * (high - low) / (2 * math.pi))

    def new_metric(self) -> Metric:
        return AbsoluteError(self)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The number and its unit, in the corner."""
        text = f"{self.name}: {decoded[self.name]:.4g} {self.unit}".rstrip()
        return caption(image, decoded, self.name, text)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, Any] | None:
        """The number and its unit; None where it is not finite."""
        value: float = decoded[self.name]
        return {"value": value, "unit": self.unit} if math.isfinite(value) else None


class AbsoluteError(Metric):
    """Mean absolute and root mean squared error over the labelled pictures, the short way round."""

    found = ("_errors",)

    def __init__(self, task: Regression) -> None:
        self._task = task
        self._errors: list[float] = []
        self._seen: set[str] = set()

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._task.label_kind)
        if label is None:
            self._seen.update(sample.labels)
            return
        error = abs(decoded[self._task.name] - self._task.number(label))
        if self._task.circular is not None:
            whole = self._task.circular[1] - self._task.circular[0]
            error = min(error % whole, whole - error % whole)
        self._errors.append(error)

    def result(self) -> MetricResult:
        nothing: dict[str, float | None] = {"mae": None, "rmse": None}
        if not self._errors:
            return MetricResult(nothing, 0, no_label(self._task.label_kind, self._seen))
        errors = np.array(self._errors)
        broken = int((~np.isfinite(errors)).sum())
        if broken:
            note = f"the network answered NaN or infinity for {broken} labelled picture(s)"
            return MetricResult(nothing, len(errors), note)
        values = {"mae": float(errors.mean()), "rmse": float(np.sqrt((errors**2).mean()))}
        return MetricResult(values, len(errors))
