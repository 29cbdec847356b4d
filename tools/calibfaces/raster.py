"""Painter's rasterisation of grids into a buffer of triangle numbers, and interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import Array, Grid


@dataclass
class Surface:
    """What each covered pixel sees; arrays run over covered pixels in raster order."""

    covered: NDArray[np.bool_]
    material: NDArray[np.int64]
    normal: Array
    depth: Array
    colour: Array
    uv: Array
    height: Array


def _normals(points: Array) -> Array:
    rows = np.gradient(points, axis=0)
    columns = np.gradient(points, axis=1)
    if points.shape[1] > 3 and np.allclose(points[:, 0], points[:, -1], atol=1e-6):
        # The grid closes on itself: difference across the seam.
        seam = (points[:, 1] - points[:, -2]) / 2
        columns[:, 0] = columns[:, -1] = seam
    normal = np.cross(rows, columns)
    return np.asarray(normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12))


def rasterise(
    grids: list[Grid], placed: list[Array], screen: list[Array], width: int, height: int
) -> Surface:
    """Draw grids whose vertices lie at `placed` (camera space) and `screen` (pixels).

    Far triangles are drawn first, so no depth buffer is needed for meshes this fine.
    """
    corners, packs, mats = [], [], []
    offset = 0
    for grid, points in zip(grids, placed, strict=True):
        rows, columns = points.shape[:2]
        index = offset + np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        triangles = np.concatenate(
            [np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)]
        )
        corners.append(triangles)
        mats.append(np.full(len(triangles), grid.material + (100 if grid.two_sided else 0)))
        flat = [points[..., 2:], _normals(points), grid.colour, grid.uv, grid.points[..., 1:2]]
        packs.append(np.concatenate(flat, axis=-1).reshape(rows * columns, -1))
        offset += rows * columns
    attributes = np.concatenate(packs).astype(np.float32)
    xy = np.concatenate([s.reshape(-1, 2) for s in screen])
    tri = np.concatenate(corners)
    material = np.concatenate(mats)
    p = xy[tri]
    cross = (p[:, 1, 0] - p[:, 0, 0]) * (p[:, 2, 1] - p[:, 0, 1]) - (p[:, 1, 1] - p[:, 0, 1]) * (
        p[:, 2, 0] - p[:, 0, 0]
    )
    low, high = p.min(axis=1), p.max(axis=1)
    keep = (np.abs(cross) > 1e-6) & ((cross < 0) | (material >= 100))
    keep &= (high[:, 0] >= 0) & (high[:, 1] >= 0) & (low[:, 0] < width) & (low[:, 1] < height)
    depth = attributes[tri, 0].mean(axis=1)
    order = np.flatnonzero(keep)
    order = order[np.argsort(depth[order], kind="stable")]
    tri, p, cross = tri[order], p[order], cross[order]
    material = material[order]
    buffer = np.zeros((height, width), np.int32)
    fixed = np.round(p * 16).astype(np.int32)
    fill = cv2.fillConvexPoly
    for number, triangle in enumerate(fixed, start=1):
        fill(buffer, triangle, number, 8, 4)
    covered = buffer > 0
    rows_at, columns_at = np.nonzero(covered)
    seen = buffer[covered] - 1
    # Barycentric coordinates are affine in x and y; their coefficients are made per triangle, and
    # kept inside the triangle where its outline was drawn fatter.
    x0, y0 = p[:, 0, 0], p[:, 0, 1]
    ux, uy = (p[:, 2, 1] - y0) / cross, (x0 - p[:, 2, 0]) / cross
    vx, vy = (y0 - p[:, 1, 1]) / cross, (p[:, 1, 0] - x0) / cross
    plane = np.stack([x0, y0, ux, uy, vx, vy], axis=-1).astype(np.float32)[seen]
    dx = columns_at.astype(np.float32) - plane[:, 0]
    dy = rows_at.astype(np.float32) - plane[:, 1]
    u = np.clip(dx * plane[:, 2] + dy * plane[:, 3], 0, 1)
    v = np.clip(dx * plane[:, 4] + dy * plane[:, 5], 0, 1)
    over = np.maximum(u + v, 1)
    u, v = (u / over)[:, None], (v / over)[:, None]
    first = attributes[tri[:, 0]]
    second, third = attributes[tri[:, 1]] - first, attributes[tri[:, 2]] - first
    values = first[seen] + u * second[seen] + v * third[seen]
    normal = values[:, 1:4]
    normal = normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6)
    kind = material[seen]
    back = (kind >= 100) & (normal[:, 2] < 0)
    normal[back] *= -1
    return Surface(
        covered, kind % 100, normal, values[:, 0], values[:, 4:7], values[:, 7:9], values[:, 9]
    )
