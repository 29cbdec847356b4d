"""Derived labels: boundaries by hand, normals of planes that are known."""

from __future__ import annotations

import numpy as np
import pytest

from edgemtl.data.derive import Camera, boundaries, foreground, normals_of_depth

CAMERA = Camera(50.0, 20.0, 15.0)


def depth_of_plane(normal: tuple[float, float, float], distance: float) -> np.ndarray:
    """Depth (30, 40) of the plane through (0, 0, distance); normal in x right, y up, z to us."""
    x, y = np.meshgrid((np.arange(40) - 20) / 50, (np.arange(30) - 15) / 50)
    facing = -normal[0] * x + normal[1] * y + normal[2]
    return (normal[2] * distance / facing).astype(np.float32)


def unit(*values: float) -> tuple[float, float, float]:
    x, y, z = np.array(values) / np.linalg.norm(values)
    return float(x), float(y), float(z)


@pytest.mark.parametrize("normal", [unit(0, 0, 1), unit(0.3, 0.5, 0.8), unit(-0.6, -0.2, 0.9)])
def test_normals_of_a_plane(normal: tuple[float, float, float]) -> None:
    found = normals_of_depth(depth_of_plane(normal, 2.0), CAMERA)
    kept = np.isfinite(found).all(axis=-1)
    assert kept.mean() > 0.99
    np.testing.assert_allclose(found[kept], np.broadcast_to(normal, (kept.sum(), 3)), atol=1e-5)


def test_two_surfaces_are_not_bridged() -> None:
    left, right = unit(0.4, 0, 0.9), unit(-0.4, 0.1, 0.9)
    depth = depth_of_plane(left, 1.5)
    depth[:, 20:] = depth_of_plane(right, 4.0)[:, 20:]
    found = normals_of_depth(depth, CAMERA)
    np.testing.assert_allclose(found[15, 19], left, atol=1e-5)
    np.testing.assert_allclose(found[15, 20], right, atol=1e-5)


def test_missing_depth_has_no_normal() -> None:
    depth = depth_of_plane(unit(0, 0, 1), 2.0)
    depth[10:20, 10:20] = np.nan
    depth[0, 0] = 0
    found = normals_of_depth(depth, CAMERA)
    assert np.isnan(found[10:20, 10:20]).all() and np.isnan(found[0, 0]).all()
    assert np.isfinite(found[9, 9]).all()


def test_boundaries_by_hand() -> None:
    classes = np.array([[1, 1, 2], [1, 1, 2], [3, -1, 2]])
    assert boundaries(classes).tolist() == [[0, 1, 0], [1, 1, 0], [0, -1, 0]]


def test_foreground_by_hand() -> None:
    assert foreground(np.array([[0, 5], [-1, 1]])).tolist() == [[0, 1], [-1, 1]]
