"""Composes heads over a background and photographs the result."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .background import make_background
from .head import FaceLabel, Layer, Placement, render_head
from .identity import sample_identity
from .shade import sample_light

SIZES = (
    (240, 320),
    (270, 360),
    (270, 480),
    (320, 320),
    (320, 240),
    (360, 270),
    (360, 480),
    (288, 352),
    (300, 400),
)
"""Frame sizes as (height, width) in pixels."""
MIN_SIDE, MAX_SIDE = 14.0, 220.0
"""Mean side of a face box, pixels."""
LARGEST_HIDDEN_SHARE = 0.25


def _angle(rng: np.random.Generator, spread: float, limit: float, wide: float) -> float:
    """An angle in degrees: mostly mild, with a share `wide` uniform over the whole range."""
    if rng.random() < wide:
        return float(rng.uniform(-limit, limit))
    return float(np.clip(rng.normal(0, spread), -limit, limit))


def _place(
    rng: np.random.Generator, height: int, width: int, count: int, taken: list[Placement]
) -> Placement | None:
    """A free spot for one more head, or None if the frame is full."""
    largest = min(MAX_SIDE, 0.82 * min(height, width) / (1 + 0.25 * (count - 1)))
    for _ in range(12):
        if count == 1:
            side = float(np.exp(rng.uniform(np.log(40), np.log(largest))))
        else:
            side = float(np.exp(rng.uniform(np.log(MIN_SIDE), np.log(largest))))
        margin = 0.45 * side
        x = float(rng.uniform(margin, width - margin))
        y = float(rng.uniform(margin, height - margin))
        if any(
            abs(x - t.x) < 0.55 * (side + t.side) and abs(y - t.y) < 0.6 * (side + t.side)
            for t in taken
        ):
            continue
        pitch, yaw = _angle(rng, 10, 35, 0.25), _angle(rng, 22, 75, 0.35)
        roll = _angle(rng, 9, 40, 0.2)
        body = (float(rng.normal(0, 4)), 0.4 * yaw + float(rng.normal(0, 12)), 0.1 * roll)
        return Placement(x, y, side, pitch, yaw, roll, float(rng.uniform(45, 200)), body)
    return None


def _hidden_share(label: FaceLabel, alpha: NDArray[np.float32]) -> float:
    """Share of a face box covered by nearer layers."""
    x, y, w, h = label.box
    rows = slice(max(0, int(y)), max(1, int(y + h)))
    part = alpha[rows, max(0, int(x)) : max(1, int(x + w))]
    return float(part.mean()) if part.size else 1.0


def photograph(rng: np.random.Generator, linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Exposure, blur, tone curve, noise and JPEG: from linear light to 8-bit BGR."""
    image: NDArray[np.float32] = linear * np.float32(np.exp(rng.normal(0.05, 0.2)))
    image = image * (1 + 0.05 * rng.standard_normal(3)).astype(np.float32)
    if rng.random() < 0.35:
        height, width = image.shape[:2]
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
        image = image * (1 + rng.uniform(0, 0.9) * ramp)[..., None]
    if rng.random() < 0.45:
        image = np.asarray(
            cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.3))), np.float32
        )
    if rng.random() < 0.12:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        reach = (length - 1) / 2
        dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
        cv2.line(
            kernel,
            (round(reach - dx), round(reach - dy)),
            (round(reach + dx), round(reach + dy)),
            1.0,
            1,
        )
        image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
    # A soft shoulder keeps bright skin from clipping flat.
    image = np.maximum(image, 0)
    image = image * (1 + image / 2.4) / (1 + image * 0.85)
    image = np.clip(image, 0, 1) ** float(1 / (2.2 * np.exp(rng.normal(0, 0.09))))
    noise = float(rng.gamma(1.5, 0.009))
    image = image + noise * rng.standard_normal(image.shape).astype(np.float32)
    if rng.random() < 0.06:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    out = np.clip(np.round(image * 255), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 92))
        _, coded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return out


def render_image(
    rng: np.random.Generator, heads: int | None = None
) -> tuple[NDArray[np.uint8], list[FaceLabel]]:
    """Render one image (H, W, 3) uint8 BGR and the labels of its 1 to 6 faces.

    `heads` fixes how many heads are tried; left out, most images hold one. Everything random
    comes from `rng`, so the same generator state gives the same pixels and labels.
    """
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    if heads is None:
        heads = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.54, 0.2, 0.11, 0.07, 0.05, 0.03]))
    image = make_background(rng, height, width)
    light = sample_light(rng)
    places: list[Placement] = []
    for _ in range(heads):
        place = _place(rng, height, width, heads, places)
        if place is not None:
            places.append(place)
    # Nearer heads are larger and hide farther ones.
    places.sort(key=lambda p: -p.side)
    layers: list[Layer] = []
    cover = np.zeros((height, width), np.float32)
    for place in places:
        own = replace(light, specular=light.specular * float(rng.uniform(0.5, 1.3)))
        layer = render_head(sample_identity(rng), place, own, (height, width), rng)
        # A face behind a nearer person is left out whole, as nobody could label it.
        if _hidden_share(layer.label, cover) < LARGEST_HIDDEN_SHARE:
            layers.append(layer)
            part = cover[layer.window]
            np.maximum(part, layer.alpha, out=part)
    for layer in reversed(layers):
        part = image[layer.window]
        part *= 1 - layer.alpha[..., None]
        part += layer.colour
    labels = [layer.label for layer in layers]
    return photograph(rng, image), labels
