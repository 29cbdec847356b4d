"""From results to drawable pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: OpenCV draws with 16 bits of range to spare; a network gone wrong can answer far beyond
_FARTHEST = 30000.0


def pixel(x: float, y: float) -> tuple[int, int]:
    """The pixel of a point that may lie outside the picture; NaN is drawn at the origin."""
    near = np.clip(np.nan_to_num([x, y]), -_FARTHEST, _FARTHEST)
    return round(float(near[0])), round(float(near[1]))


def caption(
    image: NDArray[np.uint8], decoded: Mapping[str, Any], task: str, text: str
) -> NDArray[np.uint8]:
    """Write what a task says of the picture as a whole into its top left corner.

    Each task has a line of its own: its place among the tasks that ``decoded`` names, so that
    several of them do not write over each other.
    """
    scale = max(min(image.shape[:2]) / 480, 0.35)
    thickness = max(1, round(scale))
    face = cv2.FONT_HERSHEY_SIMPLEX
    readable = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other letters
    (width, height), below = cv2.getTextSize(readable, face, scale, thickness)
    top = list(decoded).index(task) * (height + below + 4)
    cv2.rectangle(image, (0, top), (width + 6, top + height + below + 4), (0, 0, 0), -1)
    place = (3, top + height + 2)
    cv2.putText(image, readable, place, face, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return image
