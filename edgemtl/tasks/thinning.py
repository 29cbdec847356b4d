"""Thinning: lines one pixel wide from thick ones (Zhang and Suen, CACM 1984)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

#: weight of each neighbour in the code of a pixel: clockwise from the north, lowest bit first
_WEIGHTS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


def _table(first: bool) -> NDArray[np.uint8]:
    """Per code of neighbours 1 if the pixel goes in this half of an iteration, else 0."""
    goes = np.zeros(256, np.uint8)
    for code in range(256):
        ring = [(code >> bit) & 1 for bit in range(8)]
        north, east, south, west = ring[0], ring[2], ring[4], ring[6]
        rises = sum(a == 0 and b == 1 for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
        if first:
            on_its_side = north * east * south == 0 and east * south * west == 0
        else:
            on_its_side = north * east * west == 0 and north * south * west == 0
        goes[code] = 2 <= sum(ring) <= 6 and rises == 1 and on_its_side
    return goes


_TABLES = (_table(True), _table(False))


def thinned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) mask -> its skeleton, mostly one pixel wide, connected as before.

    Beyond the picture counts as empty.
    """
    image = mask.astype(np.uint8)
    while True:
        before = image
        for table in _TABLES:
            codes = cv2.filter2D(image, cv2.CV_32F, _WEIGHTS, borderType=cv2.BORDER_CONSTANT)
            image = image * (1 - table[codes.astype(np.uint8)])
        if np.array_equal(before, image):
            return image.astype(np.bool_)
