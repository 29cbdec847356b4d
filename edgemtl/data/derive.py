"""Labels that follow from other labels: saliency and edges from classes, normals from depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: side in pixels of the window to which a plane is fitted
WINDOW = 9
#: depths in a window farther from its centre than this share belong to another surface
SAME_SURFACE = 0.05
#: pixels that a plane needs at least
FEWEST = 12
#: rows that are worked on at a time, and 1 / depth where none is known: near nothing that is
BAND, FAR = 16, 1e9


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, in pixels of the picture.

    Attributes:
        focal: focal length.
        centre_x, centre_y: where the optical axis meets the picture.
    """

    focal: float
    centre_x: float
    centre_y: float


def foreground(classes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(h, w) classes with background 0 -> 1 on every other class, 0 on it, -1 where ignored."""
    return np.where(classes < 0, -1, classes > 0).astype(np.int64)


def boundaries(classes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(h, w) classes -> 1 where the right or lower neighbour is of another class, else 0.

    One pixel wide. -1 where the pixel is ignored; an ignored neighbour makes no boundary.
    """
    found = np.zeros(classes.shape, np.int64)
    for axis in (0, 1):
        here = classes[:-1] if axis == 0 else classes[:, :-1]
        there = classes[1:] if axis == 0 else classes[:, 1:]
        differs = (here != there) & (here >= 0) & (there >= 0)
        if axis == 0:
            found[:-1] |= differs
        else:
            found[:, :-1] |= differs
    found[classes < 0] = -1
    return found


def normals_of_depth(depth: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Normals of planes fitted to windows of 9 x 9 pixels.

    In a window only depths within 5 % of the centre's count, so that a plane does not bridge two
    surfaces. On a plane 1 / depth is linear in the picture's coordinates, so a least-squares fit of
    ``a x + b y + c`` to it gives the normal (a, b, c) up to length, without bias at the borders.

    Args:
        depth: (h, w) float32 metres along the optical axis; NaN or 0 where missing.
        camera: that took it.

    Returns:
        (h, w, 3) float32 unit vectors, x right, y up, z towards the camera; NaN where the depth is
        missing or too few neighbours lie on the same surface.
    """
    height, width = depth.shape
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.where(known, 1 / np.where(known, depth, 1), FAR).astype(np.float32)
    n, u, v, uu, uv, vv, z, zu, zv = _window_sums(inverse, known)
    # Least squares by Cramer's rule, in the differences to the centre.
    minors = uu * vv - uv * uv, uu * v - uv * u, uv * v - vv * u
    determinant = n * minors[0] - v * minors[1] + u * minors[2]
    fits = (n >= FEWEST) & (np.abs(determinant) > 1e-6)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope_u = zu * (vv * n - v * v) - zv * (uv * n - u * v) + z * minors[2]
        slope_v = zv * (uu * n - u * u) - zu * (uv * n - u * v) - z * minors[1]
        level = z * minors[0] - zv * minors[1] + zu * minors[2]
        slope_u, slope_v, level = (
            np.where(fits, value / determinant, np.nan) for value in (slope_u, slope_v, level)
        )
    level += inverse
    # 1 / depth = slope_u u + slope_v v + level around the pixel; rays are ((x - cx) / f, ..., 1)
    columns, rows = np.arange(width), np.arange(height)[:, None]
    a, b = slope_u * camera.focal, slope_v * camera.focal
    c = level - slope_u * (columns - camera.centre_x) - slope_v * (rows - camera.centre_y)
    # a x + b y + c z = 1 holds on the plane; the side where it is smaller faces the camera
    vectors = np.stack([-a, b, c], axis=-1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / length, np.float32)


def _window_sums(
    inverse: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], ...]:
    """Sums over the same surface in every window, (h, w) each.

    They are of 1, u, v, u u, u v, v v, and of d, d u, d v, with u and v the columns and rows from
    the centre and d the difference of ``inverse`` to it. Band by band, so that what the 81 shifts
    read and write stays in the processor's cache.
    """
    height, width = inverse.shape
    half = WINDOW // 2
    padded = cv2.copyMakeBorder(inverse, half, half, half, half, cv2.BORDER_CONSTANT, value=FAR)
    nearest = np.where(known, np.float32(SAME_SURFACE) * inverse, np.float32(-1))
    # n and its moments are whole numbers below 2**15
    counts = np.zeros((6, height, width), np.int16)
    sums = np.zeros((3, height, width), np.float32)
    for start in range(0, height, BAND):
        band = slice(start, min(start + BAND, height))
        centre, limit = inverse[band], nearest[band]
        of_row_n = np.empty((3, *centre.shape), np.int16)
        of_row_d = np.empty((2, *centre.shape), np.float32)
        for row in range(-half, half + 1):
            of_row_n[:], of_row_d[:] = 0, 0
            top = band.start + half + row
            for column in range(-half, half + 1):
                left = half + column
                d = padded[top : top + len(centre), left : left + width] - centre
                same = np.abs(d) <= limit
                d *= same
                one = same.view(np.int8)
                of_row_n[0] += one
                of_row_d[0] += d
                if column:
                    of_row_n[1] += one * np.int8(column)
                    of_row_n[2] += one * np.int8(column * column)
                    of_row_d[1] += d * np.float32(column)
            found = counts[:, band]
            found[0] += of_row_n[0]
            found[1] += of_row_n[1]
            found[3] += of_row_n[2]
            found[2] += of_row_n[0] * np.int16(row)
            found[4] += of_row_n[1] * np.int16(row)
            found[5] += of_row_n[0] * np.int16(row * row)
            sums[0, band] += of_row_d[0]
            sums[1, band] += of_row_d[1]
            sums[2, band] += of_row_d[0] * np.float32(row)
    return (*counts.astype(np.float64), *sums.astype(np.float64))
