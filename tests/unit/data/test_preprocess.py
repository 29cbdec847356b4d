"""Letterboxing and the way back; input specifications from untrusted files."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl.data.preprocess import InputSpec, View, inner_size, letterbox
from edgemtl.errors import InputRefused

SPEC = InputSpec((64, 96), "bgr", (104.0, 117.0, 123.0))


def solid(size: tuple[int, int], bgr: tuple[int, int, int]) -> np.ndarray:
    return np.full((*size, 3), bgr, np.uint8)


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([(64, 96), (32, 32), (320, 128)]))
@settings(max_examples=60)
def test_points_find_their_way_back(height: int, width: int, canvas: tuple[int, int]) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    _, view = letterbox(image, InputSpec(canvas))
    points = np.random.default_rng(height * 1000 + width).uniform(0, 1, (6, 2)) * [width, height]
    on_canvas = (points * view.scale + [view.left, view.top]).astype(np.float32)
    back = view.to_image(on_canvas)
    np.testing.assert_allclose(back, points, atol=2e-3 / view.scale + 1e-3)
    # The picture lies inside the canvas, centred, and touches it along one axis.
    inner = inner_size((height, width), view.scale)
    for inside, whole, start in zip(inner, canvas, (view.top, view.left), strict=True):
        assert start >= 0 and start + inside <= whole
        assert abs((whole - inside) / 2 - start) <= 0.5
    assert inner[0] == canvas[0] or inner[1] == canvas[1]


@pytest.mark.parametrize("size", [(30, 30), (200, 300), (17, 400), (400, 17), (63, 95)])
def test_a_mark_lands_where_the_view_says(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    y, x = int(size[0] * 0.7), int(size[1] * 0.4)
    radius = max(3, min(size) // 8)
    cv2.circle(image, (x, y), radius, (255, 255, 255), -1)
    canvas, view = letterbox(image, InputSpec((64, 96)))
    mass = canvas.sum(axis=0)
    rows, columns = np.mgrid[0:64, 0:96] + 0.5
    image_mass = image.sum(axis=2).astype(float)
    image_rows, image_columns = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    wanted = [
        (image_columns * image_mass).sum() / image_mass.sum() * view.scale + view.left,
        (image_rows * image_mass).sum() / image_mass.sum() * view.scale + view.top,
    ]
    found = [(columns * mass).sum() / mass.sum(), (rows * mass).sum() / mass.sum()]
    assert found == pytest.approx(wanted, abs=0.6)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1, 2), (3000, 2000), (64, 96)]
)
def test_extreme_images_go_through(size: tuple[int, int]) -> None:
    canvas, view = letterbox(solid(size, (10, 20, 30)), SPEC)
    assert canvas.shape == (3, 64, 96) and canvas.dtype == np.float32
    assert canvas.flags["C_CONTIGUOUS"] and np.isfinite(canvas).all()
    inside = (canvas != 0).all(axis=0)
    assert inside.sum() == np.prod(inner_size(size, view.scale))
    np.testing.assert_allclose(canvas[:, inside].T, np.tile([-94, -97, -93], (inside.sum(), 1)))
    assert view.crop_to_image(np.ones((64, 96), np.float32)).shape == size


def test_a_image_of_the_canvas_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    canvas, view = letterbox(image, InputSpec((64, 96)))
    np.testing.assert_array_equal(canvas.transpose(1, 2, 0), image)
    assert (view.scale, view.left, view.top) == (1.0, 0.0, 0.0)


def test_channel_order_mean_and_std_go_together() -> None:
    image = solid((64, 96), (10, 20, 30))
    mean, std = (1.0, 2.0, 3.0), (2.0, 4.0, 5.0)
    bgr, _ = letterbox(image, InputSpec((64, 96), "bgr", mean, std))
    rgb, _ = letterbox(image, InputSpec((64, 96), "rgb", mean, std))
    np.testing.assert_allclose(bgr[:, 0, 0], [9 / 2, 18 / 4, 27 / 5])
    np.testing.assert_allclose(rgb[:, 0, 0], [29 / 2, 18 / 4, 7 / 5])


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_the_border_is_the_mean_or_the_fill(order: Any) -> None:
    image = solid((10, 96), (1, 2, 3))
    mean, std = (100.0, 110.0, 120.0), (2.0, 4.0, 5.0)
    canvas, view = letterbox(image, InputSpec((64, 96), order, mean, std))
    assert view.top == 27 and (canvas[:, :27] == 0).all() and (canvas[:, 37:] == 0).all()
    canvas, _ = letterbox(image, InputSpec((64, 96), order, mean, std, fill=114.0))
    np.testing.assert_allclose(canvas[:, 0, 0], [14 / 2, 4 / 4, -6 / 5])


def test_the_input_image_is_not_changed() -> None:
    image = solid((64, 96), (10, 20, 30))
    letterbox(image, InputSpec((64, 96), "rgb", (1.0, 2.0, 3.0)))
    assert (image == (10, 20, 30)).all()


def test_shrinking_does_not_alias() -> None:
    """One white column of eight, eight to a canvas pixel: every canvas pixel is their mean."""
    image = np.zeros((512, 768, 3), np.uint8)
    image[:, ::8] = 255
    canvas, _ = letterbox(image, InputSpec((64, 96)))
    assert np.abs(canvas - 255 / 8).max() <= 1


def test_maps_are_cropped_to_the_image() -> None:
    _, view = letterbox(np.zeros((100, 300, 3), np.uint8), InputSpec((64, 96)))
    dense = np.full((64, 96), -1, np.float32)
    dense[16:48] = np.arange(96, dtype=np.float32)
    cropped = view.crop_to_image(dense)
    assert cropped.shape == (100, 300) and cropped.min() >= 0, "nothing of the border"
    assert (np.diff(cropped, axis=1) >= 0).all()
    many = view.crop_to_image(np.stack([dense, dense + 1], axis=-1))
    assert many.shape == (100, 300, 2)
    np.testing.assert_allclose(many[..., 0], cropped, atol=1e-4)


def test_specification_survives_its_dict() -> None:
    spec = InputSpec((10, 20), "rgb", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 7.0)
    assert InputSpec.from_dict(spec.to_dict()) == spec
    assert InputSpec.from_dict(SPEC.to_dict()) == SPEC


GOOD = SPEC.to_dict()


@pytest.mark.parametrize(
    "data",
    [None, [], "spec", {},
     {**GOOD, "size": [64]}, {**GOOD, "size": [0, 96]}, {**GOOD, "size": [64, 9000]},
     {**GOOD, "size": [float("inf"), 4]}, {**GOOD, "size": None}, {**GOOD, "size": [-64, 96]},
     {**GOOD, "mean": [1, 2]}, {**GOOD, "mean": [1, 2, float("nan")]}, {**GOOD, "mean": "abc"},
     {**GOOD, "std": [1, 1, 0]}, {**GOOD, "std": [1, 1, -1]}, {**GOOD, "std": [1, float("nan"), 1]},
     {**GOOD, "std": [1, float("inf"), 1]}, {**GOOD, "channel_order": "grb"},
     {**GOOD, "fill": "grey"}, {**GOOD, "fill": float("nan")}, {**GOOD, "colour": 3}],
)  # fmt: skip
def test_unreadable_specifications_are_refused(data: Any) -> None:
    with pytest.raises(InputRefused, match="input s"):
        InputSpec.from_dict(data)


def test_view_uses_one_scale_for_both_axes() -> None:
    view = View(0.5, 10.0, 20.0, (100, 100), (64, 96))
    np.testing.assert_allclose(
        view.to_image(np.array([[[10, 20], [20, 40]]], "f4")), [[[0, 0], [20, 40]]]
    )
