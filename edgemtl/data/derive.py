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
    inverse = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float64)
    half = WINDOW // 2
    # sums over the window of 1, u, v, u u, u v, v v and of these times 1 / depth
    sums = np.zeros((9, height, width))
    padded = cv2.copyMakeBorder(inverse, half, half, half, half, cv2.BORDER_CONSTANT, value=0)
    for row in range(-half, half + 1):
        for column in range(-half, half + 1):
            top, left = half + row, half + column
            other = padded[top : top + height, left : left + width]
            same = (other > 0) & known & (np.abs(other - inverse) <= SAME_SURFACE * inverse)
            weight = same.astype(np.float64)
            value = other * weight
            sums[0] += weight
            sums[1] += weight * column
            sums[2] += weight * row
            sums[3] += weight * column * column
            sums[4] += weight * column * row
            sums[5] += weight * row * row
            sums[6] += value
            sums[7] += value * column
            sums[8] += value * row
    n, u, v, uu, uv, vv, z, zu, zv = sums
    matrix = np.stack([uu, uv, u, uv, vv, v, u, v, n], axis=-1).reshape(height, width, 3, 3)
    right = np.stack([zu, zv, z], axis=-1)[..., None]
    fits = (n >= FEWEST) & (np.abs(np.linalg.det(matrix)) > 1e-6)
    fitted = np.full((height, width, 3), np.nan)
    fitted[fits] = np.linalg.solve(matrix[fits], right[fits])[..., 0]
    # 1 / depth = slope_u u + slope_v v + level around the pixel; rays are ((x - cx) / f, ..., 1)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    a, b = fitted[..., 0] * camera.focal, fitted[..., 1] * camera.focal
    c = (
        fitted[..., 2]
        - fitted[..., 0] * (columns - camera.centre_x)
        - fitted[..., 1] * (rows - camera.centre_y)
    )
    # a x + b y + c z = 1 holds on the plane; the side where it is smaller faces the camera
    vectors = np.stack([-a, b, c], axis=-1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / length, np.float32)
