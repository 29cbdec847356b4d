"""Objects of any number of classes as boxes, for every usual kind of detector's head; COCO's mAP.

Faces with landmarks and pose have a kind of their own (:mod:`edgemtl.tasks.detection`), whose
priors other tasks read; this one stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.objects import Objects
from edgemtl.data.preprocess import Part, View
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import Arrays, Metric, MetricSpec, Task, TaskSpec, require_shape
from edgemtl.tasks.classes import class_names
from edgemtl.tasks.drawing import pixel
from edgemtl.tasks.object_assignment import assign, giou
from edgemtl.tasks.object_head import ObjectHead
from edgemtl.tasks.object_metric import FoundObjects, ObjectPrecision
from edgemtl.tasks.registry import register_task
from edgemtl.tasks.segmentation import palette

#: candidates handed to non-maximum suppression
TOP_CANDIDATES = 1000
#: score from which a box is shown
SHOWN = 0.4
#: focal loss (Lin et al. 2017)
ALPHA, GAMMA = 0.25, 2.0
#: rows of background per row of an object, where classes exclude each other (SSD, section 2.2)
NEGATIVES = 3
#: where the teacher is so sure of an object, its box is distilled
SURE = 0.3
NO_CLASS = -1


@dataclass(frozen=True)
class ObjectTargets:
    """Labels of a batch, on the canvas.

    Attributes:
        boxes: per picture (m, 4) float32, or None where nobody labelled it.
        classes: per picture (m,) int64.
        size: height and width of the canvas.
    """

    boxes: tuple[Tensor | None, ...]
    classes: tuple[Tensor, ...]
    size: tuple[int, int]


@register_task
class ObjectDetection(Task):
    """Objects as boxes with classes.

    Outputs: ``<name>.scores`` (N, C), or (N, C + 1) with a background; ``<name>.boxes`` (N, 4), or
    (N, 4 bins); with objectness ``<name>.objectness`` (N, 1). The head says what they mean.

    Args:
        name: task name.
        classes: names of the C classes, in the order of the scores.
        head: :class:`ObjectHead` as plain data.
        label: which label of a picture it learns from; by default ``objects``.
        mirror: whether a picture with left and right exchanged has the same classes, in mirrored
            boxes.
    """

    kind = "objects"
    primary = MetricSpec("map", "mAP", "higher")
    secondary = (MetricSpec("map50", "mAP at 0.5", "higher"),)
    class_figure = MetricSpec("ap", "AP", "higher")

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        head: Mapping[str, Any],
        label: str = "objects",
        mirror: bool = True,
    ) -> None:
        super().__init__(name)
        self.classes = class_names(classes, self.kind, least=1)
        self.head = ObjectHead.from_dict(head)
        self.label_kind, self.mirrors = str(label), bool(mirror)

    @property
    def outputs(self) -> tuple[str, ...]:
        own = (f"{self.name}.scores", f"{self.name}.boxes")
        return (*own, f"{self.name}.objectness") if self.head.objectness else own

    def spec(self) -> TaskSpec:
        options: dict[str, Any] = {"classes": list(self.classes), "head": self.head.to_dict()}
        more = {"label": self.label_kind, "mirror": self.mirrors}
        return TaskSpec(self.name, self.kind, options | more)

    def known(self, label: Any) -> tuple[Objects, NDArray[np.int64]]:
        """A label as objects and the number of each one's class, -1 for classes of others.

        It is :class:`Objects`, or a list of ``{"class": ..., "box": [x, y, w, h]}`` in pixels.

        Raises:
            InputRefused: another label.
        """
        if not isinstance(label, Objects):
            try:
                boxes = np.array([row["box"] for row in label], np.float32).reshape(-1, 4)
                names = tuple(row["class"] for row in label)
                crowd = np.array([bool(row.get("crowd", False)) for row in label], bool)
                if not np.isfinite(boxes).all():
                    raise ValueError("a box is not finite")
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise InputRefused(
                    f"a label of task '{self.name}' is no list of objects: {str(label)[:60]!r}",
                    hint='each is {"class": NAME, "box": [x, y, width, height]}',
                ) from error
            boxes[:, 2:] += boxes[:, :2]
            label = Objects(boxes, names, crowd)
        places = {name: number for number, name in enumerate(self.classes)}
        numbers = [
            places.get(one, NO_CLASS)
            if isinstance(one, str)
            else (one if 0 <= one < len(self.classes) else NO_CLASS)
            for one in label.classes
        ]
        return label, np.array(numbers, np.int64)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> ObjectTargets:
        """Boxes of the task's classes, without crowds and what has no area."""
        boxes: list[Tensor | None] = []
        classes: list[Tensor] = []
        for label in labels:
            if label is None:
                boxes.append(None)
                classes.append(torch.zeros(0, dtype=torch.int64))
                continue
            found, numbers = self.known(label)
            extent = found.boxes[:, 2:] - found.boxes[:, :2]
            kept = (numbers != NO_CLASS) & ~found.crowd & (extent > 0).all(axis=1)
            boxes.append(torch.from_numpy(found.boxes[kept]))
            classes.append(torch.from_numpy(numbers[kept]))
        return ObjectTargets(tuple(boxes), tuple(classes), canvas_size)

    def to_canvas(self, label: Any, view: View) -> Objects | None:
        return None if label is None else self.known(label)[0].on_canvas(view)

    def mirror(self, label: Any, width: int) -> Objects | None:
        return self.known(label)[0].mirrored(width) if self.mirrors else None

    def crop(self, label: Any, part: Part) -> Objects:
        return self.known(label)[0].cropped(part)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        rows = len(self.head.places(canvas_size))
        columns = (self.head.columns(len(self.classes)), self.head.numbers, 1)
        for output, wanted in zip(self.outputs, columns, strict=False):
            require_shape(self, output, shapes[output], ("B", rows, wanted))

    def loss_terms(
        self, outputs: Mapping[str, Tensor], targets: ObjectTargets
    ) -> dict[str, Tensor]:
        """``class`` and ``box``, both per row that answers for an object; ``objectness`` with one.

        Classes by focal loss, or by cross-entropy with mined background where they exclude each
        other; boxes by 1 - GIoU, of queries their distance beside it. Pictures that nobody labelled
        do not count.
        """
        scores, raw, objectness = self._parts(outputs)
        boxes = self.head.boxes(raw, targets.size)
        nothing = scores.sum() * 0.0 + raw.sum() * 0.0
        of_class, of_box, of_object, answering = nothing, nothing, nothing, 0
        canvas = torch.tensor([targets.size[1], targets.size[0]] * 2, dtype=torch.float32)
        for index, wanted in enumerate(targets.boxes):
            if wanted is None:
                continue
            rows = which = torch.zeros(0, dtype=torch.int64)
            sure = objectness[index] if objectness is not None else None
            if len(wanted):
                likely = self.head.probabilities(scores[index], sure).detach()
                found, own = boxes[index].detach(), targets.classes[index]
                rows, which = assign(self.head, found, likely, wanted, own, targets.size)
                of_box = of_box + (1 - giou(boxes[index][rows], wanted[which])).sum()
                if self.head.kind == "queries":
                    apart = (boxes[index][rows] - wanted[which]) / canvas
                    of_box = of_box + apart.abs().sum()
            answering += len(rows)
            classes = targets.classes[index][which]
            of_class = of_class + self._class_loss(scores[index], rows, classes)
            if sure is not None:
                there = torch.zeros(len(sure))
                there[rows] = 1
                of_object = of_object + F.binary_cross_entropy_with_logits(
                    sure[:, 0], there, reduction="sum"
                )
        count = max(answering, 1)
        terms = {"class": of_class / count, "box": of_box / count}
        return terms if objectness is None else terms | {"objectness": of_object / count}

    def _parts(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        found = [outputs[name].float() for name in self.outputs]
        return found[0], found[1], found[2] if self.head.objectness else None

    def _class_loss(self, scores: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Summed over the rows of one picture."""
        first = self.head.background == "first"
        if self.head.scores == "softmax":
            label = torch.full((len(scores),), 0 if first else len(self.classes))
            label[rows] = classes + first
            loss = F.cross_entropy(scores, label, reduction="none")
            ranked = loss.detach().clone()
            ranked[rows] = -1.0
            most = min(max(NEGATIVES * len(rows), 8), len(scores) - len(rows))
            used = torch.zeros(len(scores), dtype=torch.bool)
            used[ranked.topk(most).indices] = True
            used[rows] = True
            return loss[used].sum()
        if self.head.scores == "none":
            scores = torch.logit(scores, eps=1e-4)
        wanted = torch.zeros_like(scores)
        wanted[rows, classes + first] = 1
        if self.head.objectness:  # that speaks of the rows where nothing is
            return F.binary_cross_entropy_with_logits(scores[rows], wanted[rows], reduction="sum")
        loss = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        right = torch.where(wanted > 0, scores.sigmoid(), 1 - scores.sigmoid())
        weight = torch.where(wanted > 0, ALPHA, 1 - ALPHA)
        return (weight * (1 - right) ** GAMMA * loss).sum()

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Any
    ) -> Tensor:
        """Squared difference of probabilities, and smooth L1 of boxes where the teacher is sure.

        Both per row where it is.
        """
        scores, boxes, objectness = self._parts(student)
        theirs, wanted, sure_of = self._parts(teacher)
        likely = self.head.probabilities(theirs, sure_of)
        sure = likely.amax(dim=-1) > SURE
        count = sure.sum().clamp(min=1)
        loss = (self.head.probabilities(scores, objectness) - likely).square().sum() / count
        if bool(sure.any()):
            loss = loss + F.smooth_l1_loss(boxes[sure], wanted[sure], reduction="sum") / count
        return loss

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Probabilities where they are in doubt, and boxes where there is an object."""
        scores, boxes, objectness = self._parts(outputs)
        likely = self.head.probabilities(scores, objectness)
        known = likely.detach()
        there = known.amax(dim=-1, keepdim=True)
        return {
            self.outputs[0]: (likely, (known * (1 - known)).clamp(min=1e-6)),
            self.outputs[1]: (boxes, there),
        }

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> FoundObjects:
        """Boxes cut at the picture's edges, the best first, those of one class suppressed."""
        parts = {name: torch.from_numpy(np.asarray(outputs[name])) for name in self.outputs}
        scores, raw, objectness = self._parts(parts)
        likely = self.head.probabilities(scores, objectness).numpy()
        boxes = view.to_image(
            self.head.boxes(raw, view.canvas_size).numpy().reshape(-1, 2, 2)
        ).reshape(-1, 4)
        height, width = view.image_size
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        # A damaged network can answer NaN; such a box lies nowhere.
        likely = np.nan_to_num(likely)
        likely[~np.isfinite(boxes).all(axis=1)] = 0
        rows, classes = np.nonzero(likely > self.head.least_score)
        found = likely[rows, classes]
        order = np.argsort(-found, kind="stable")[:TOP_CANDIDATES]
        rows, classes, found = rows[order], classes[order], found[order]
        kept = _suppress(boxes[rows], found, classes, self.head.nms)[: self.head.most]
        return FoundObjects(
            boxes[rows[kept]].astype(np.float32),
            found[kept].astype(np.float32),
            classes[kept].astype(np.int64),
        )

    def new_metric(self) -> Metric:
        return ObjectPrecision(self.name, self.label_kind, self.classes, self.known)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Boxes of score 0.4 and more with class and score, a colour per class."""
        found: FoundObjects = decoded[self.name]
        colours = palette(len(self.classes) + 1)[1:]
        thickness = max(1, round(min(image.shape[:2]) / 240))
        face, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.35 * thickness
        for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True):
            if score < SHOWN:
                continue
            colour = tuple(int(value) for value in colours[number])
            x, y = pixel(box[0], box[1])
            cv2.rectangle(image, (x, y), pixel(box[2], box[3]), colour, thickness, cv2.LINE_AA)
            text = f"{self.classes[number]} {score:.2f}".encode("ascii", "replace").decode()
            cv2.putText(image, text, (x, max(y - 3, 9)), face, scale, colour, 1, cv2.LINE_AA)
        return image

    def describe(self, decoded: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Shown objects: class, box x y w h in pixels, and score."""
        found: FoundObjects = decoded[self.name]
        return [
            {
                "class": self.classes[number],
                "box": [float(box[0]), float(box[1]), *(box[2:] - box[:2]).astype(float).tolist()],
                "score": float(score),
            }
            for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True)
            if score >= SHOWN
        ]


def _suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.floating],
    classes: NDArray[np.int64],
    overlap: float | None,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class: positions kept, best score first."""
    if overlap is None or len(boxes) == 0:
        return np.arange(len(boxes))
    # classes are laid so far apart that boxes of two of them never overlap
    apart = classes[:, None] * (float(boxes.max()) + 1)
    xywh = (boxes + apart).astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), scores.astype(float).tolist(), 0.0, overlap)
    return np.sort(np.asarray(kept, np.intp).reshape(-1))
