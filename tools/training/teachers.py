"""Pseudo-labels: what RetinaFace and FSA-Net say about faces that carry no landmarks or pose.

This is distillation done once, before training: the teachers run over the training pictures and
their answers fill the gaps in the labels (never over a label that is there).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.preprocess import letterbox
from edgemtl.data.samples import Faces, Sample
from edgemtl.measure.accuracy import decode_all, network_runner
from edgemtl.models.checkpoint import load_tensors
from edgemtl.models.mos.importers import import_retinaface
from edgemtl.tasks.detection import match_to_labels

#: a teacher's landmarks are believed from this detection score on
CONFIDENT = 0.8
#: FSA-Net sees 64 px crops; below this face side its answer is mostly interpolation
SMALLEST_POSE_FACE_PX = 40.0
#: share of the box's side by which a crop goes beyond it on every side: 0.3 is the published one
MARGINS = (0.3,)
AVERAGED_MARGINS = (0.2, 0.3, 0.4)


class LandmarkTeacher:
    """RetinaFace (RGB, leaky) at 640 px."""

    def __init__(self, weights: Path) -> None:
        payload = load_tensors(weights / "retinaface_mobilenet025_rgb_leaky.pth")
        self.network = import_retinaface(payload, "retinaface-rgb-leaky", (640, 640))
        self.run = network_runner(self.network)

    def fill(self, sample: Sample, faces: Faces) -> Faces:
        """The faces with landmarks where the teacher is confident and the label has none."""
        missing = ~np.isfinite(faces.landmarks).all(axis=(1, 2))
        if not missing.any():
            return faces
        canvas, view = letterbox(sample.image, self.network.input_spec)
        outputs = {k: v[0] for k, v in self.run(canvas[None]).items()}
        decoded = decode_all(self.network.tasks, outputs, view)
        found = match_to_labels(decoded["detection"], faces, CONFIDENT)
        landmarks = faces.landmarks.copy()
        for face in np.flatnonzero(missing & (found >= 0)):
            landmarks[face] = decoded["landmarks"][found[face]]
        return Faces(faces.boxes, landmarks, faces.pose)


class PoseTeacher:
    """The mean of the two FSA-Net networks on the box grown by 30 % a side."""

    def __init__(self, weights: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = [
            onnxruntime.InferenceSession(
                weights / f"fsanet-{kind}-iter-688590.onnx",
                options,
                providers=["CPUExecutionProvider"],
            )
            for kind in ("1x1", "var")
        ]

    def estimate(
        self,
        image: NDArray[np.uint8],
        box: NDArray[np.float32],
        margins: Sequence[float] = MARGINS,
        flips: bool = False,
    ) -> NDArray[np.float32]:
        """(3,) yaw, pitch, roll in degrees: the mean over both networks, margins and mirrorings."""
        answers = []
        for margin in margins:
            crop = _crop(image, box, margin)
            answers += self._ask(crop)
            if flips:
                mirrored = self._ask(np.ascontiguousarray(crop[:, ::-1]))
                answers += [answer * np.array([-1, 1, -1], np.float32) for answer in mirrored]
        return np.mean(answers, axis=0).astype(np.float32)

    def _ask(self, crop: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """What each of the two networks says."""
        tensor = (cv2.resize(crop, (64, 64)).astype(np.float32) - 127.5) / 128
        tensor = tensor.transpose(2, 0, 1)[None]
        return [s.run(None, {s.get_inputs()[0].name: tensor})[0][0] for s in self.sessions]

    def averaged(self, sample: Sample) -> Sample:
        """The sample with every pose label replaced by the mean over crops and mirrorings.

        For labels that are themselves this teacher's answers to one crop: the mean has less of
        their noise.
        """
        faces = sample.labels["faces"]
        pose = faces.pose.copy()
        for face in np.flatnonzero(np.isfinite(pose).all(axis=1)):
            pose[face] = self.estimate(sample.image, faces.boxes[face], AVERAGED_MARGINS, True)
        return Sample(
            sample.name, sample.image, {"faces": Faces(faces.boxes, faces.landmarks, pose)}
        )

    def fill(self, sample: Sample, faces: Faces) -> Faces:
        """The faces with pose where the label has none and the face is large enough."""
        pose = faces.pose.copy()
        side = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(axis=1, initial=np.inf)
        missing = ~np.isfinite(pose).all(axis=1)
        for face in np.flatnonzero(missing & (side >= SMALLEST_POSE_FACE_PX)):
            pose[face] = self.estimate(sample.image, faces.boxes[face])
        return Faces(faces.boxes, faces.landmarks, pose)


def _crop(image: NDArray[np.uint8], box: NDArray[np.float32], margin: float) -> NDArray[np.uint8]:
    """The box grown by a share of its sides, the border replicated."""
    width, height = box[2:] - box[:2]
    x0, y0 = box[0] - margin * width, box[1] - margin * height
    x1, y1 = box[2] + margin * width, box[3] + margin * height
    border = int(max(width, height))
    padded = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
    cut = padded[int(y0) + border : int(y1) + border + 1, int(x0) + border : int(x1) + border + 1]
    return np.asarray(cut, np.uint8)


def fill_gaps(samples: Sequence[Sample], weights: Path) -> list[Sample]:
    """All samples with the gaps in their face labels filled by the teachers."""
    landmarks, pose = LandmarkTeacher(weights), PoseTeacher(weights)
    filled = []
    for sample in samples:
        faces = sample.labels["faces"]
        faces = pose.fill(sample, landmarks.fill(sample, faces))
        filled.append(Sample(sample.name, sample.image, {"faces": faces}))
    return filled
