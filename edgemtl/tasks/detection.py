"""Face detection: one score and one box per prior; average precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.anchors import (
    FaceBatch,
    decode_boxes,
    encode_boxes,
    iou_matrix,
    priors,
)
from edgemtl.tasks.base import Arrays, Metric, MetricResult, MetricSpec, TaskSpec
from edgemtl.tasks.drawing import pixel
from edgemtl.tasks.faces import FaceTask
from edgemtl.tasks.registry import register_task

#: detections below this score are not even candidates (RetinaFace's and WIDER FACE's usual value)
SCORE_FLOOR = 0.02
NMS_IOU = 0.4
#: candidates handed to non-maximum suppression and kept after it (MOS, section 4)
TOP_CANDIDATES = 5000
TOP_KEPT = 750
#: a face counts as found by a detection of at least this overlap
FOUND_IOU = 0.5
#: score from which a detection is shown, and from which landmarks and pose are judged (MOS,
#: section 6: AFLW2000 protocol)
OPERATING_SCORE = 0.4
SMALL_FACE_PX = 20.0
#: a prior takes part in the distillation of boxes when the teacher is at least this sure of a face
SURE = 0.3


@dataclass(frozen=True)
class Detections:
    """Decoded detections of one picture, best first.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2 in picture pixels.
        scores: (n,) float32 in 0..1.
        prior_index: (n,) index of the prior each came from: where other tasks read their answer.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    prior_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def shown(self) -> NDArray[np.bool_]:
        """(n,) which of them score enough to be shown to a person."""
        return np.asarray(self.scores >= OPERATING_SCORE)


def softmax_face_score(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2) background/face logits -> (n,) probability of a face."""
    difference = np.clip(logits[:, 0] - logits[:, 1], -60, 60)
    return np.asarray(1.0 / (1.0 + np.exp(difference)), np.float32)


def face_probability(logits: Tensor) -> Tensor:
    """(B, N) probability of a face of (B, N, 2) logits; a constant to gradients."""
    return logits.detach().float().softmax(dim=-1)[..., 1]


def match_to_labels(
    detections: Detections, faces: Faces, min_score: float = OPERATING_SCORE
) -> NDArray[np.int64]:
    """(faces,) index of the best-scored detection that finds each face, -1 for a missed one.

    One detection finds at most one face: the one it overlaps most.
    """
    found = np.full(len(faces), -1, np.int64)
    keep = int((detections.scores >= min_score).sum())
    if keep == 0 or len(faces) == 0:
        return found
    overlap = iou_matrix(detections.boxes[:keep], faces.boxes)
    for index in range(keep):  # best score first
        face = int(overlap[index].argmax())
        if overlap[index, face] >= FOUND_IOU and found[face] < 0:
            found[face] = index
    return found


@register_task
class Detection(FaceTask):
    """Faces as boxes.

    Outputs: ``<name>.scores`` (N, 2) background/face logits, ``<name>.boxes`` (N, 4) encoded.

    Args:
        name: task name.
        anchors: :class:`AnchorSpec` as plain data.
        negatives_per_positive: hard negatives mined per positive (RetinaFace: 7).
    """

    kind = "detection"
    primary = MetricSpec("ap_20px", "AP (faces >= 20 px)", "higher")
    secondary = (MetricSpec("ap", "AP (all faces)", "higher"),)

    def __init__(
        self, name: str, anchors: Mapping[str, Any], negatives_per_positive: int = 7
    ) -> None:
        super().__init__(name, anchors)
        self.negatives_per_positive = int(negatives_per_positive)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.scores", f"{self.name}.boxes")

    def spec(self) -> TaskSpec:
        return TaskSpec(
            self.name,
            self.kind,
            {
                "anchors": self.anchors.to_dict(),
                "negatives_per_positive": self.negatives_per_positive,
            },
        )

    def values(self, output: str) -> int:
        """Two scores, four numbers of a box."""
        return 2 if output == self.outputs[0] else 4

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: FaceBatch) -> dict[str, Tensor]:
        """``class``: cross-entropy over positives and mined negatives; ``box``: smooth L1.

        Both are divided by the number of positive priors of the batch (RetinaFace multibox loss).
        Pictures that nobody labelled do not count: what looks like a face there may be one.
        """
        logits = outputs[self.outputs[0]].float()
        encoded = outputs[self.outputs[1]].float()
        match = targets.match(self.anchors)
        positives = max(len(match.prior), 1)
        label = torch.zeros(logits.shape[:2], dtype=torch.long)
        label[match.image, match.prior] = 1
        loss = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
        loss = loss.view_as(label)
        # Hard negatives are mined per image; a picture without faces still teaches with a few.
        ranked = loss.detach().masked_fill(label == 1, -1.0)
        wanted = (label.sum(dim=1) * self.negatives_per_positive).clamp(min=8)
        wanted = torch.minimum(wanted, label.shape[1] - label.sum(dim=1))
        rank = ranked.argsort(dim=1, descending=True).argsort(dim=1)
        used = (label == 1) | (rank < wanted[:, None])
        used &= torch.tensor(targets.labelled)[:, None]
        class_loss = (loss * used).sum() / positives
        if len(match.prior) == 0:
            return {"class": class_loss, "box": encoded.sum() * 0.0}
        grid = targets.grid(self.anchors)[match.prior]
        wanted_boxes = encode_boxes(targets.boxes()[match.face], grid, self.anchors)
        predicted = encoded[match.image, match.prior]
        box_loss = F.smooth_l1_loss(predicted, wanted_boxes, reduction="sum") / positives
        return {"class": class_loss, "box": box_loss}

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: FaceBatch
    ) -> Tensor:
        """Divergence of the scores, and smooth L1 of the boxes where the teacher is sure of a face.

        Both per such prior. The teacher also speaks of faces that nobody labelled.
        """
        scores, boxes = self.outputs
        wanted = teacher[scores].float().softmax(dim=-1)
        found = student[scores].float().log_softmax(dim=-1)
        divergence = (wanted * (wanted.clamp(min=1e-8).log() - found)).sum(dim=-1)
        sure = wanted[..., 1] > SURE
        count = sure.sum().clamp(min=1)
        loss = divergence.sum() / count
        if bool(sure.any()):
            difference = F.smooth_l1_loss(
                student[boxes].float()[sure], teacher[boxes].float()[sure], reduction="sum"
            )
            loss = loss + difference / count
        return loss

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Scores where they are in doubt, and boxes where there is a face."""
        logits, boxes = (outputs[name].float() for name in self.outputs)
        face = face_probability(outputs[self.outputs[0]])
        return {
            self.outputs[0]: (logits[..., 1] - logits[..., 0], face * (1 - face)),
            self.outputs[1]: (boxes, face.unsqueeze(-1)),
        }

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> Detections:
        scores = softmax_face_score(outputs[self.outputs[0]])
        candidates = np.flatnonzero(scores > SCORE_FLOOR)
        order = np.argsort(-scores[candidates], kind="stable")[:TOP_CANDIDATES]
        candidates = candidates[order]
        grid = priors(self.anchors, view.canvas_size)[candidates]
        boxes = decode_boxes(outputs[self.outputs[1]][candidates], grid, self.anchors)
        boxes = view.to_image(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        # A damaged network can answer NaN; such a box lies nowhere and overlaps nothing.
        real = np.isfinite(boxes).all(axis=1)
        boxes, candidates = boxes[real], candidates[real]
        kept = suppress(boxes, scores[candidates])[:TOP_KEPT]
        return Detections(boxes[kept], scores[candidates][kept], candidates[kept].astype(np.int64))

    def new_metric(self) -> Metric:
        return AveragePrecision(self.name)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        found: Detections = decoded[self.name]
        thickness = max(1, round(min(image.shape[:2]) / 240))
        for box, score in zip(found.boxes, found.scores, strict=True):
            if score < OPERATING_SCORE:
                continue
            (x1, y1), end = pixel(box[0], box[1]), pixel(box[2], box[3])
            cv2.rectangle(image, (x1, y1), end, (80, 220, 60), thickness, cv2.LINE_AA)
            cv2.putText(
                image,
                f"{score:.2f}",
                (x1, max(y1 - 3, 9)),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.35 * thickness,
                (80, 220, 60),
                1,
                cv2.LINE_AA,
            )
        return image

    def describe(self, decoded: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Shown detections: box x y w h in pixels and score."""
        found: Detections = decoded[self.name]
        return [
            {
                "box": [float(box[0]), float(box[1]), *(box[2:] - box[:2]).astype(float).tolist()],
                "score": float(score),
            }
            for box, score in zip(found.boxes, found.scores, strict=True)
            if score >= OPERATING_SCORE
        ]


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Greedy non-maximum suppression at IoU 0.4: positions kept, best score first."""
    if len(boxes) == 0:
        return np.zeros(0, np.intp)
    xywh = boxes.copy()
    xywh[:, 2:] -= xywh[:, :2]
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), 0.0, NMS_IOU)
    return np.asarray(kept, np.intp).reshape(-1)


class AveragePrecision(Metric):
    """All-point average precision at IoU 0.5, over all faces and over faces of 20 px and more.

    A face's size is sqrt(w * h) in pixels of the original picture. For the second figure a
    detection that finds a smaller face counts neither way, as in WIDER FACE.
    """

    found = ("_scores", "_found", "_sizes")

    def __init__(self, task: str) -> None:
        self._task = task
        self._scores: list[NDArray[np.float32]] = []
        #: per detection: size of the face it found, 0 for a false alarm, -1 for a repeat
        self._found: list[NDArray[np.float32]] = []
        self._sizes: list[NDArray[np.float32]] = []

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        faces = sample.labels.get("faces")
        if faces is None:
            return
        detections: Detections = decoded[self._task]
        extent = faces.boxes[:, 2:] - faces.boxes[:, :2]
        sizes = np.sqrt(np.prod(np.clip(extent, 0, None), axis=1)).astype(np.float32)
        outcome = np.zeros(len(detections), np.float32)
        if len(faces) and len(detections):
            overlap = iou_matrix(detections.boxes, faces.boxes)
            taken = np.zeros(len(faces), bool)
            for index in range(len(detections)):
                face = int(overlap[index].argmax())
                if not overlap[index, face] >= FOUND_IOU:  # NaN, of a damaged network, is no hit
                    continue
                # A repeat on a large face is a false alarm; on a small one it is ignored with it.
                outcome[index] = -sizes[face] if taken[face] else sizes[face]
                taken[face] = True
        self._scores.append(detections.scores)
        self._found.append(outcome)
        self._sizes.append(sizes)

    def result(self) -> MetricResult:
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.float32)
        if len(sizes) == 0:
            return MetricResult({"ap": None, "ap_20px": None}, 0, "no labelled face to find")
        scores, found = np.concatenate(self._scores), np.concatenate(self._found)
        large = int((sizes >= SMALL_FACE_PX).sum())
        everything = average_precision(scores, found > 0, len(sizes))
        counted = ~((np.abs(found) > 0) & (np.abs(found) < SMALL_FACE_PX))
        of_large = average_precision(scores[counted], found[counted] > 0, large) if large else None
        note = "" if large else "no labelled face of 20 px or more"
        return MetricResult({"ap": everything, "ap_20px": of_large}, len(sizes), note)


def average_precision(
    scores: NDArray[np.float32], hits: NDArray[np.bool_], positives: int
) -> float:
    """Area under the precision envelope over recall, all points; in 0..1.

    Detections of equal score enter together, so the order of the pictures does not matter.

    Args:
        scores: (n,) of all detections of the data set.
        hits: (n,) whether each is a first hit of a labelled face.
        positives: number of labelled faces, at least 1.
    """
    if len(scores) == 0:
        return 0.0
    order = np.argsort(-scores)
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    true = np.cumsum(hits[order])[last]
    precision = true / np.arange(1, len(order) + 1)[last]
    recall = true / positives
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * envelope).sum())
