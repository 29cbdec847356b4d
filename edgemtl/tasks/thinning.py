"""Thinning: lines one pixel wide from thick ones (Zhang and Suen, CACM 1984)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def _table(first: bool) -> NDArray[np.uint8]:
    """Per code of neighbours 1 if the pixel goes in this half of an iteration, else 0.

    A code has a bit per neighbour, clockwise from the north, the lowest first.
    """
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

    Beyond the picture counts as empty. Only pixels at a border can go, so only those are looked at:
    a wide mask takes many rounds, and its inside would be most of the work of each.
    """
    image = np.pad(mask, 1).astype(np.uint8)
    inside = cv2.erode(image, np.ones((3, 3), np.uint8))
    row = image.shape[1]
    ring = np.array([-row, 1 - row, 1, 1 + row, row, row - 1, -1, -1 - row])
    flat = image.reshape(-1)
    watched = flat > inside.reshape(-1)
    border = np.flatnonzero(watched)
    while True:
        changed = False
        for table in _TABLES:
            codes = np.packbits(flat[border + ring[:, None]], axis=0, bitorder="little")[0]
            gone = border[table[codes] > 0]
            if not len(gone):
                continue
            changed = True
            flat[gone] = 0
            near = (gone[:, None] + ring).reshape(-1)
            near = np.unique(near[(flat[near] > 0) & ~watched[near]])
            watched[near] = True
            border = np.concatenate([border[flat[border] > 0], near])
        if not changed:
            return image[1:-1, 1:-1].astype(np.bool_)
