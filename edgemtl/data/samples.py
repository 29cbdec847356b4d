"""What a reader hands out: a picture and its labels, whatever the tasks are.

Labels are keyed by *kind of label* ("faces", "depth", "segmentation", ...), not by task: several
tasks may read the same label (detection, landmarks and pose all read "faces"), and one picture may
carry only some of the labels that a network's tasks want.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: Mirrored order of the five landmarks (left eye, right eye, nose, left mouth, right mouth).
LANDMARK_MIRROR = (1, 0, 2, 4, 3)


@dataclass(frozen=True)
class Faces:
    """Labelled faces of one picture, in pixels of that picture.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2.
        landmarks: (n, 5, 2) float32, x y of left eye, right eye, nose, left and right mouth corner
            ("left" as seen in the picture); NaN where not labelled.
        pose: (n, 3) float32, yaw pitch roll in degrees; NaN where not labelled. Positive yaw turns
            the face to the picture's left (AFLW2000 ``Pose_Para`` convention).
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    pose: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def empty() -> Faces:
        """Labels of a picture without faces."""
        return Faces(
            np.zeros((0, 4), np.float32),
            np.zeros((0, 5, 2), np.float32),
            np.zeros((0, 3), np.float32),
        )

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Faces:
        """The faces selected by an index or a boolean mask."""
        return Faces(self.boxes[index], self.landmarks[index], self.pose[index])

    def moved(self, scale_x: float, scale_y: float, dx: float, dy: float) -> Faces:
        """The same faces after ``x' = x * scale_x + dx`` and ``y' = y * scale_y + dy``."""
        scale = np.array([scale_x, scale_y], np.float32)
        shift = np.array([dx, dy], np.float32)
        boxes = self.boxes.reshape(-1, 2, 2) * scale + shift
        return Faces(boxes.reshape(-1, 4), self.landmarks * scale + shift, self.pose)

    def mirrored(self, width: float) -> Faces:
        """The faces of the horizontally flipped picture of this width in pixels.

        Eyes and mouth corners swap sides; yaw and roll change sign, pitch stays (MOS, section 5).
        """
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = width - self.boxes[:, [2, 0]]
        landmarks = self.landmarks[:, LANDMARK_MIRROR, :].copy()
        landmarks[..., 0] = width - landmarks[..., 0]
        return Faces(boxes, landmarks, self.pose * np.array([-1, 1, -1], np.float32))


@dataclass(frozen=True)
class Sample:
    """One picture with its labels.

    Attributes:
        name: file name, unique in its dataset.
        image: (height, width, 3) uint8, BGR.
        labels: kind of label -> its value: ``"faces"`` -> :class:`Faces`, ``"depth"`` -> (h, w)
            float32 in metres with NaN for missing, ``"segmentation"`` -> (h, w) int, -1 ignored.
    """

    name: str
    image: NDArray[np.uint8]
    labels: Mapping[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """A finite, ordered, named set of samples.

    Iteration decodes one picture at a time and skips those that do not decode, naming them in
    ``problems``; it never raises because of one bad file.
    """

    name: str

    @property
    def problems(self) -> list[str]:
        """One sentence per picture or label that could not be used so far."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The samples at these positions, in this order."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over names, labels and picture bytes: what a cache key may rely on."""
        ...
