"""What the tasks about faces share: how labels of faces move with a picture, and where to put it.

A picture of faces is shown in training at any scale, on a canvas of its own border or of a plain
colour, so that faces of all sizes are seen (MOS, section 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.augment import SMALLEST_FACE_PX, faces_of, place, visible
from edgemtl.data.preprocess import InputSpec, Part, View
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.anchors import AnchorSpec, FaceBatch, collate_faces, priors
from edgemtl.tasks.base import Placed, Task, require_shape

#: a picture is scaled by this relative to its letterboxed size (and cut off by the canvas)
SCALES = (0.35, 1.7)
#: where the scale is drawn to suit a face, the face gets a side in this range (in pixels; as a
#: share of the canvas), or heads for small faces would neither be trained nor judged
SMALLEST_DRAWN_PX, LARGEST_DRAWN = 12.0, 0.6
#: attempts to find a place where a face is left on the canvas
TRIES = 8


class FaceTask(Task):
    """A task that answers at every prior of a grid, and is labelled with faces.

    Its outputs are (B, N, ...) for the N priors.

    Args:
        name: task name.
        anchors: :class:`AnchorSpec` as plain data.
    """

    label_kind = "faces"

    def __init__(self, name: str, anchors: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.anchors = AnchorSpec.from_dict(anchors)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> FaceBatch:
        return collate_faces(labels, canvas_size)

    def to_canvas(self, label: Faces, view: View) -> Faces:
        """The faces in canvas pixels; those beyond its border stay labelled."""
        return label.moved(view.scale, view.scale, view.left, view.top)

    def mirror(self, label: Faces, width: int) -> Faces:
        """See :meth:`Faces.mirrored`."""
        return label.mirrored(width)

    def crop(self, label: Faces, part: Part) -> Faces:
        """The faces whose centre is in the part, in pixels of the part."""
        moved = label.moved(1, 1, -part.left, -part.top)
        return visible(moved, part.height, part.width, SMALLEST_FACE_PX)

    def placed(
        self, sample: Sample, spec: InputSpec, rng: np.random.Generator, focus: float
    ) -> Placed | None:
        """The picture at a random scale and place; None at a ``focus`` of 1 where no face is."""
        if focus == 1 and not len(faces_of(sample)):
            return None
        height, width = spec.size
        size = sample.image.shape[:2]
        fit = min(height / size[0], width / size[1])
        for _ in range(TRIES):
            scale = fit * float(np.exp(rng.uniform(*np.log(SCALES))))
            if len(faces_of(sample)) and rng.random() < focus:
                scale = min(_scale_for_a_face(sample, spec, rng), fit * SCALES[1])
            left = _corner(rng, width, size[1] * scale)
            top = _corner(rng, height, size[0] * scale)
            found = place(sample, _border(sample, spec, rng), scale, left, top, SMALLEST_FACE_PX)
            if len(faces_of(found)) or not len(faces_of(sample)):
                break
        view = View(scale, left, top, (size[0], size[1]), spec.size)
        return Placed(found.image, faces_of(found), view)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        """(1, N, values), with as many priors N as the canvas has."""
        count = len(priors(self.anchors, canvas_size))
        for name in self.outputs:
            require_shape(self, name, shapes[name], ("B", count, self.values(name)))

    def values(self, output: str) -> int:
        """How many numbers an output has per prior."""
        raise NotImplementedError


def _scale_for_a_face(sample: Sample, spec: InputSpec, rng: np.random.Generator) -> float:
    boxes = faces_of(sample).boxes
    box = boxes[int(rng.integers(len(boxes)))]
    side = float(np.sqrt(max(float(np.prod(box[2:] - box[:2])), 1.0)))
    limits = np.log([SMALLEST_DRAWN_PX, min(spec.size) * LARGEST_DRAWN])
    return float(np.exp(rng.uniform(*limits))) / side


def _corner(rng: np.random.Generator, canvas: int, extent: float) -> int:
    free = canvas - extent
    return round(float(rng.uniform(min(free, 0.0), max(free, 0.0))))


def _border(sample: Sample, spec: InputSpec, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What lies around the picture: the letterbox's colour, or a blurred, faceless smear of it."""
    height, width = spec.size
    canvas = np.empty((height, width, 3), np.uint8)
    if rng.random() < 0.5:
        smear = cv2.resize(sample.image, (4, 4), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(smear, (width, height), interpolation=cv2.INTER_CUBIC))
    mean = spec.mean if spec.channel_order == "bgr" else spec.mean[::-1]
    canvas[:] = np.round(mean if spec.fill is None else [spec.fill] * 3).astype(np.uint8)
    return canvas
