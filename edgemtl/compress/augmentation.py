"""Random changes of labelled pictures for recovery training, faces and dense maps alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.batches import Prepared, prepare
from edgemtl.data.augment import SMALLEST_FACE_PX, degrade, faces_of, jitter_colours, mirror, place
from edgemtl.data.dense import labels_on_canvas
from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Dataset, Faces, Sample
from edgemtl.errors import InputRefused

#: a face picture is scaled by this relative to its letterboxed size (and cut off by the canvas)
FACE_SCALES = (0.35, 1.7)
#: every other time the scale is drawn so that one face of the picture gets a side in this range (in
#: pixels; as a share of the canvas), or heads for small faces would neither be trained nor judged
SMALLEST_DRAWN_PX, LARGEST_DRAWN = 12.0, 0.6
#: a random part of a picture with dense labels, as a share of each side
DENSE_SHARES = (0.6, 1.0)
#: kinds of dense labels whose values do not change when the picture is mirrored
MIRRORED_AS_THEY_ARE = {"segmentation", "depth", "saliency", "edges"}


def random_view(sample: Sample, spec: InputSpec, rng: np.random.Generator) -> Prepared:
    """A randomly changed picture on the canvas, with its labels.

    Args:
        sample: a picture in its own pixels.
        spec: the canvas; its ``size`` may differ from the network's.
        rng: draws everything random.
    """
    if isinstance(sample.labels.get("faces"), Faces):
        sample = _place_faces(sample, spec, rng)
        if rng.random() < 0.5:
            sample = mirror(sample)
        labels: Mapping[str, Any] = sample.labels
        image = degrade(jitter_colours(sample.image, rng), rng)
        canvas, _ = letterbox(image, spec)
        return Prepared(canvas.astype(np.float16), dict(labels))
    sample = _crop_dense(sample, rng)
    if rng.random() < 0.5 and set(sample.labels) <= MIRRORED_AS_THEY_ARE:
        flipped = {kind: np.ascontiguousarray(v[:, ::-1]) for kind, v in sample.labels.items()}
        sample = Sample(sample.name, np.ascontiguousarray(sample.image[:, ::-1]), flipped)
    image = degrade(jitter_colours(sample.image, rng), rng)
    canvas, view = letterbox(image, spec)
    return Prepared(canvas.astype(np.float16), labels_on_canvas(sample.labels, view))


def rescaled(sample: Sample, spec: InputSpec, rng: np.random.Generator) -> Sample:
    """A picture of faces at another scale, so that faces are seen at all sizes.

    Pictures without faces are returned as they are.
    """
    if not len(faces_of(sample)):
        return sample
    return _place_faces(sample, spec, rng, by_face=1.0)


def prepare_all(dataset: Dataset, spec: InputSpec, seed: int) -> list[Prepared]:
    """All pictures of a data set, shuffled, so that the first few already resemble the whole.

    Every other picture of faces is shown at another scale (see :func:`rescaled`).

    Raises:
        InputRefused: no picture decodes.
    """
    rng = np.random.default_rng(seed)
    found = [
        prepare(rescaled(sample, spec, rng) if number % 2 else sample, spec)
        for number, sample in enumerate(dataset)
    ]
    if not found:
        raise InputRefused("no picture could be read", where=dataset.name)
    return [found[int(index)] for index in rng.permutation(len(found))]


def _place_faces(
    sample: Sample, spec: InputSpec, rng: np.random.Generator, by_face: float = 0.5
) -> Sample:
    """The picture at a random scale and place on a canvas of its own border or a plain colour."""
    height, width = spec.size
    fit = min(height / sample.image.shape[0], width / sample.image.shape[1])
    best = sample
    for _ in range(8):
        scale = fit * float(np.exp(rng.uniform(*np.log(FACE_SCALES))))
        if len(faces_of(sample)) and rng.random() < by_face:
            scale = min(_scale_for_a_face(sample, spec, rng), fit * FACE_SCALES[1])
        left = _corner(rng, width, sample.image.shape[1] * scale)
        top = _corner(rng, height, sample.image.shape[0] * scale)
        best = place(sample, _border(sample, spec, rng), scale, left, top, SMALLEST_FACE_PX)
        if len(faces_of(best)) or not len(faces_of(sample)):
            break
    return best


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


def _crop_dense(sample: Sample, rng: np.random.Generator) -> Sample:
    height, width = sample.image.shape[:2]
    share = float(rng.uniform(*DENSE_SHARES))
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    y = int(rng.integers(0, height - rows + 1))
    x = int(rng.integers(0, width - columns + 1))
    part = np.s_[y : y + rows, x : x + columns]
    labels = {kind: np.ascontiguousarray(label[part]) for kind, label in sample.labels.items()}
    return Sample(sample.name, np.ascontiguousarray(sample.image[part]), labels)
