"""Head pose per prior as three binned angles; mean absolute error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.tasks.anchors import FaceBatch
from edgemtl.tasks.base import Arrays, Metric, MetricResult, MetricSpec, TaskSpec
from edgemtl.tasks.detection import (
    OPERATING_SCORE,
    Detections,
    face_probability,
    match_to_labels,
)
from edgemtl.tasks.drawing import pixel
from edgemtl.tasks.faces import FaceTask
from edgemtl.tasks.registry import register_task

BINS = 66
BIN_DEGREES = 3.0
LOWEST_DEGREES = -99.0
AXES = ("yaw", "pitch", "roll")


def expected_angle(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 66) logits -> (n,) degrees: expectation of the bins (MOS, section 4)."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    bins = np.arange(BINS, dtype=np.float32)
    return np.asarray(BIN_DEGREES * (weights @ bins) + LOWEST_DEGREES, np.float32)


def bin_targets(angle: Tensor) -> Tensor:
    """(n,) degrees -> (n, 66) target distribution whose expectation is the angle.

    Exactly so from -99 to 96, the angles of the first and the last bin; what lies beyond becomes
    the nearest of the two. The angle's mass is split between its two neighbouring bins: a single
    hard bin, as in the published training, puts the expectation up to one bin (3 degrees) below
    the label and leaves it to the regression term to push back.
    """
    position = ((angle - LOWEST_DEGREES) / BIN_DEGREES).clamp(0, BINS - 1)
    lower = position.floor().clamp(max=BINS - 2).long()
    share = position - lower
    target = torch.zeros(len(angle), BINS)
    rows = torch.arange(len(angle))
    target[rows, lower] = 1 - share
    target[rows, lower + 1] = share
    return target


@register_task
class HeadPose(FaceTask):
    """Yaw, pitch and roll of each detected face.

    Outputs: ``<name>.yaw``, ``<name>.pitch``, ``<name>.roll``, each (N, 66) bin logits.

    Args:
        name: task name.
        anchors: :class:`AnchorSpec` as plain data.
        detection: name of the detection task whose priors are read.
        regression_weight: weight of the squared error of the expected angle (in bins) beside the
            cross-entropy of the bins.
    """

    kind = "pose"
    primary = MetricSpec("mae_deg", "pose MAE", "lower", "deg")
    secondary = tuple(MetricSpec(axis, f"{axis} MAE", "lower", "deg") for axis in AXES)

    def __init__(
        self,
        name: str,
        anchors: Mapping[str, Any],
        detection: str = "detection",
        regression_weight: float = 0.1,
    ) -> None:
        super().__init__(name, anchors)
        self.detection = str(detection)
        self.regression_weight = float(regression_weight)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{axis}" for axis in AXES)

    @property
    def requires(self) -> tuple[str, ...]:
        return (self.detection,)

    def spec(self) -> TaskSpec:
        return TaskSpec(
            self.name,
            self.kind,
            {
                "anchors": self.anchors.to_dict(),
                "detection": self.detection,
                "regression_weight": self.regression_weight,
            },
        )

    def values(self, output: str) -> int:
        """The angle's bins."""
        return BINS

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: FaceBatch) -> dict[str, Tensor]:
        """``yaw``, ``pitch``, ``roll``: cross-entropy of bins plus weighted squared error.

        Over priors whose face has pose labels inside +-99 degrees, divided by their number.
        """
        match = targets.match(self.anchors)
        angles = targets.pose()[match.face]
        labelled = (angles.abs() < -LOWEST_DEGREES).all(dim=1)  # False for NaN too
        terms: dict[str, Tensor] = {}
        bins = torch.arange(BINS, dtype=torch.float32)
        for index, (axis, output) in enumerate(zip(AXES, self.outputs, strict=True)):
            if not bool(labelled.any()):
                terms[axis] = outputs[output].float().sum() * 0.0
                continue
            logits = outputs[output][match.image[labelled], match.prior[labelled]].float()
            angle = angles[labelled, index]
            cross_entropy = F.cross_entropy(logits, bin_targets(angle))
            expected = logits.softmax(dim=1) @ bins
            wanted = ((angle - LOWEST_DEGREES) / BIN_DEGREES).clamp(0, BINS - 1)
            squared = F.mse_loss(expected, wanted)
            terms[axis] = cross_entropy + self.regression_weight * squared
        return terms

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: FaceBatch
    ) -> Tensor:
        """Divergence of the bins, and a tenth of the squared error of the expected angle in bins.

        At priors that answer for a face, be its pose labelled or not; summed over the three angles.
        The expected angle is what the metric reads, as in :meth:`loss_terms`.
        """
        match = targets.match(self.anchors)
        terms = []
        for name in self.outputs:
            found = student[name].float()
            if len(match.prior) == 0:
                return found.sum() * 0.0
            wanted = teacher[name].float()[match.image, match.prior].softmax(dim=-1)
            mine = found[match.image, match.prior].log_softmax(dim=-1)
            bins = torch.arange(wanted.shape[-1], dtype=torch.float32)
            terms.append(F.kl_div(mine, wanted, reduction="batchmean"))
            terms.append(0.1 * F.mse_loss(mine.exp() @ bins, wanted @ bins))
        return torch.stack(terms).sum()

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The expected angles where there is a face."""
        face = face_probability(outputs[f"{self.detection}.scores"])
        bins = torch.arange(BINS, dtype=torch.float32)
        return {name: (outputs[name].float().softmax(-1) @ bins, face) for name in self.outputs}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(n, 3) yaw pitch roll in degrees, aligned with the detections."""
        found: Detections = decoded[self.detection]
        if len(found) == 0:
            return np.zeros((0, 3), np.float32)
        angles = [expected_angle(outputs[name][found.prior_index]) for name in self.outputs]
        return np.stack(angles, axis=1)

    def new_metric(self) -> Metric:
        return MeanAbsoluteAngle(self.name, self.detection)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        found: Detections = decoded[self.detection]
        for box, score, angles in zip(found.boxes, found.scores, decoded[self.name], strict=True):
            if score >= OPERATING_SCORE:
                _draw_axes(image, box, angles)
        return image

    def describe(self, decoded: Mapping[str, Any]) -> Any:
        """Angles in degrees per shown detection, in the same order."""
        rows = decoded[self.name][decoded[self.detection].shown()].astype(float).tolist()
        return [dict(zip(AXES, row, strict=True)) for row in rows]


def _draw_axes(
    image: NDArray[np.uint8], box: NDArray[np.float32], angles: NDArray[np.float32]
) -> None:
    """Draw the head's right (red), down (green) and forward (blue) axes at the box's centre."""
    # Drawing negates yaw: positive yaw turns the face to the picture's left (MOS, section 4).
    yaw, pitch, roll = np.deg2rad(angles * np.array([-1, 1, 1], np.float32)).astype(float)
    length = float(min(box[2] - box[0], box[3] - box[1])) / 2
    x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    ends = (
        ((cy * cr, cp * sr + cr * sp * sy), (60, 60, 255)),
        ((-cy * sr, cp * cr - sp * sy * sr), (60, 220, 60)),
        ((sy, -cy * sp), (255, 120, 60)),
    )
    thickness = max(1, round(length / 25))
    for (dx, dy), colour in ends:
        end = pixel(x + length * dx, y + length * dy)
        cv2.line(image, pixel(x, y), end, colour, thickness, cv2.LINE_AA)


class MeanAbsoluteAngle(Metric):
    """Mean absolute error per axis and their mean, in degrees.

    Over labelled faces (angles inside +-99 degrees) that a detection of score 0.4 or more finds;
    missed faces are not penalised, their share stands with the landmarks and the detection.
    """

    found = ("_errors", "_missed")

    def __init__(self, task: str, detection: str) -> None:
        self._task = task
        self._detection = detection
        self._errors: list[NDArray[np.float32]] = []
        self._missed = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        faces = sample.labels.get("faces")
        if faces is None:
            return
        labelled = (np.abs(faces.pose) < -LOWEST_DEGREES).all(axis=1)  # False for NaN
        found = match_to_labels(decoded[self._detection], faces)
        for face in np.flatnonzero(labelled):
            if found[face] < 0:
                self._missed += 1
            else:
                self._errors.append(np.abs(decoded[self._task][found[face]] - faces.pose[face]))

    def result(self) -> MetricResult:
        keys = ("mae_deg", *AXES, "missed_share")
        total = len(self._errors) + self._missed
        if total == 0:
            return MetricResult(dict.fromkeys(keys), 0, "no face with labelled pose")
        missed = self._missed / total
        nothing: dict[str, float | None] = {**dict.fromkeys(keys), "missed_share": missed}
        if not self._errors:
            return MetricResult(nothing, total, "no labelled face was found")
        mean = np.stack(self._errors).mean(axis=0)
        if not np.isfinite(mean).all():
            return MetricResult(nothing, total, "an angle is not finite")
        by_axis = {axis: float(value) for axis, value in zip(AXES, mean, strict=True)}
        return MetricResult(
            {"mae_deg": float(mean.mean()), **by_axis, "missed_share": missed}, total
        )
