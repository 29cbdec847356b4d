"""From results to drawable pixels."""

from __future__ import annotations

import numpy as np

#: OpenCV draws with 16 bits of range to spare; a network gone wrong can answer far beyond
_FARTHEST = 30000.0


def pixel(x: float, y: float) -> tuple[int, int]:
    """The pixel of a point that may lie outside the picture; NaN is drawn at the origin."""
    near = np.clip(np.nan_to_num([x, y]), -_FARTHEST, _FARTHEST)
    return round(float(near[0])), round(float(near[1]))
