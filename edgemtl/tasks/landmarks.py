"""Five facial landmarks per prior; normalised mean error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.tasks.anchors import (
    FaceBatch,
    decode_points,
    encode_points,
    priors,
)
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


@register_task
class Landmarks(FaceTask):
    """Eyes, nose and mouth corners of each detected face.

    Output: ``<name>.points`` (N, 10) encoded x y of the five points.

    Args:
        name: task name.
        anchors: :class:`AnchorSpec` as plain data.
        detection: name of the detection task whose priors are read.
    """

    kind = "landmarks"
    primary = MetricSpec("nme_percent", "NME", "lower", "%")
    secondary = (MetricSpec("missed_share", "faces missed", "lower"),)

    def __init__(self, name: str, anchors: Mapping[str, Any], detection: str = "detection") -> None:
        super().__init__(name, anchors)
        self.detection = str(detection)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.points",)

    @property
    def requires(self) -> tuple[str, ...]:
        return (self.detection,)

    def spec(self) -> TaskSpec:
        return TaskSpec(
            self.name,
            self.kind,
            {"anchors": self.anchors.to_dict(), "detection": self.detection},
        )

    def values(self, output: str) -> int:
        """Five points."""
        return 10

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: FaceBatch) -> dict[str, Tensor]:
        """``points``: smooth L1 over priors whose face has landmarks, divided by their number."""
        encoded = outputs[self.outputs[0]].float()
        match = targets.match(self.anchors)
        points = targets.landmarks()[match.face]
        labelled = points.flatten(1).isfinite().all(dim=1)
        if not bool(labelled.any()):
            return {"points": encoded.sum() * 0.0}
        image, prior = match.image[labelled], match.prior[labelled]
        grid = targets.grid(self.anchors)[prior]
        wanted = encode_points(points[labelled], grid, self.anchors)
        loss = F.smooth_l1_loss(encoded[image, prior], wanted, reduction="sum")
        return {"points": loss / int(labelled.sum())}

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: FaceBatch
    ) -> Tensor:
        """Smooth L1 per prior that answers for a face, be its landmarks labelled or not."""
        match = targets.match(self.anchors)
        found = student[self.outputs[0]].float()
        if len(match.prior) == 0:
            return found.sum() * 0.0
        wanted = teacher[self.outputs[0]].float()
        loss: Tensor = F.smooth_l1_loss(
            found[match.image, match.prior], wanted[match.image, match.prior], reduction="sum"
        ) / len(match.prior)
        return loss

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The points where there is a face."""
        face = face_probability(outputs[f"{self.detection}.scores"]).unsqueeze(-1)
        return {name: (outputs[name].float(), face) for name in self.outputs}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(n, 5, 2) picture pixels, aligned with the detections."""
        found: Detections = decoded[self.detection]
        grid = priors(self.anchors, view.canvas_size)[found.prior_index]
        encoded = outputs[self.outputs[0]][found.prior_index]
        return view.to_image(decode_points(encoded, grid, self.anchors))

    def new_metric(self) -> Metric:
        return NormalisedMeanError(self.name, self.detection)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        found: Detections = decoded[self.detection]
        radius = max(1, round(min(image.shape[:2]) / 200))
        for points, score in zip(decoded[self.name], found.scores, strict=True):
            if score < OPERATING_SCORE:
                continue
            for x, y in points:
                cv2.circle(image, pixel(x, y), radius, (40, 160, 255), -1, cv2.LINE_AA)
        return image

    def describe(self, decoded: Mapping[str, Any]) -> Any:
        """Five x y in pixels per shown detection, in the same order."""
        shown = decoded[self.detection].shown()
        return decoded[self.name][shown].astype(float).tolist()


class NormalisedMeanError(Metric):
    """Mean distance of the five points in % of sqrt(w * h) of the labelled box.

    Over labelled faces that a detection of score 0.4 or more finds at IoU 0.5; the share of
    labelled faces that none finds stands beside it, since missing the hard ones flatters the mean.
    """

    found = ("_errors", "_missed")

    def __init__(self, task: str, detection: str) -> None:
        self._task = task
        self._detection = detection
        self._errors: list[float] = []
        self._missed = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        faces = sample.labels.get("faces")
        if faces is None:
            return
        labelled = np.isfinite(faces.landmarks).all(axis=(1, 2))
        found = match_to_labels(decoded[self._detection], faces)
        for face in np.flatnonzero(labelled):
            if found[face] < 0:
                self._missed += 1
                continue
            distance = np.linalg.norm(
                decoded[self._task][found[face]] - faces.landmarks[face], axis=1
            )
            width, height = faces.boxes[face, 2:] - faces.boxes[face, :2]
            self._errors.append(float(distance.mean() / np.sqrt(width * height) * 100))

    def result(self) -> MetricResult:
        total = len(self._errors) + self._missed
        if total == 0:
            return MetricResult(
                {"nme_percent": None, "missed_share": None}, 0, "no face with labelled landmarks"
            )
        missed = self._missed / total
        if not self._errors:
            return MetricResult(
                {"nme_percent": None, "missed_share": missed}, total, "no labelled face was found"
            )
        mean = float(np.mean(self._errors))
        if not np.isfinite(mean):
            return MetricResult(
                {"nme_percent": None, "missed_share": missed}, total, "a landmark is not finite"
            )
        return MetricResult({"nme_percent": mean, "missed_share": missed}, total)
