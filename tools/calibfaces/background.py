"""Procedural backgrounds, several of them with face-like distractors."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from .texture import fractal

Image = NDArray[np.float32]


def _colour(rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> Image:
    base = rng.uniform(low, high, 3)
    grey = base.mean()
    return np.asarray(grey + (base - grey) * rng.uniform(0.1, 0.9), np.float32)


def _gradient(rng: np.random.Generator, h: int, w: int) -> Image:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    t = (x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle) + 0.5
    a, b = _colour(rng), _colour(rng)
    return np.asarray(a + (b - a) * np.clip(t, 0, 1)[..., None], np.float32)


def _noise(rng: np.random.Generator, h: int, w: int) -> Image:
    cells = int(rng.integers(2, 14))
    t = 0.5 + 0.28 * fractal(rng, h, w, cells, 5)
    a, b = _colour(rng), _colour(rng)
    return np.asarray(a + (b - a) * np.clip(t, 0, 1)[..., None], np.float32)


def _blobs(rng: np.random.Generator, h: int, w: int) -> Image:
    """Out-of-focus lights and objects."""
    image = _gradient(rng, h, w)
    for _ in range(int(rng.integers(15, 60))):
        at = (int(rng.integers(w)), int(rng.integers(h)))
        axes = (int(rng.integers(4, w // 5)), int(rng.integers(4, h // 4)))
        colour = _colour(rng).tolist()
        cv2.ellipse(image, at, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(2, 14)), np.float32)


def _bricks(rng: np.random.Generator, h: int, w: int) -> Image:
    a, joint = _colour(rng, 0.2, 0.8), _colour(rng, 0.3, 0.9)
    image = np.empty((h, w, 3), np.float32)
    image[:] = joint
    bh, bw = int(rng.integers(8, 34)), int(rng.integers(16, 80))
    gap = int(rng.integers(1, 4))
    offset = rng.choice([0.0, 0.5])
    for row in range(h // bh + 1):
        for column in range(-1, w // bw + 1):
            x = int((column + offset * (row % 2)) * bw)
            shade = a * rng.uniform(0.75, 1.2)
            cv2.rectangle(
                image, (x, row * bh), (x + bw - gap, row * bh + bh - gap), shade.tolist(), -1
            )
    return np.asarray(image * (1 + 0.05 * fractal(rng, h, w, 30, 3))[..., None], np.float32)


def _stripes(rng: np.random.Generator, h: int, w: int) -> Image:
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    period = rng.uniform(6, 60)
    t = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.4:
        t = t * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    t = 0.5 + 0.5 * np.tanh(t * rng.uniform(1, 8))
    a, b = _colour(rng), _colour(rng)
    return np.asarray(a + (b - a) * t[..., None], np.float32)


def _room(rng: np.random.Generator, h: int, w: int) -> Image:
    """A wall, a floor, a window or door, some furniture."""
    wall, floor = _colour(rng, 0.35, 0.9), _colour(rng, 0.1, 0.6)
    image = np.empty((h, w, 3), np.float32)
    horizon = int(h * rng.uniform(0.55, 0.95))
    image[:horizon], image[horizon:] = wall, floor
    for _ in range(int(rng.integers(2, 8))):
        x, y = int(rng.integers(-20, w)), int(rng.integers(-20, horizon))
        ww, hh = int(rng.integers(15, w // 2)), int(rng.integers(15, h // 2))
        cv2.rectangle(image, (x, y), (x + ww, y + hh), _colour(rng).tolist(), -1)
        if rng.random() < 0.6:
            edge = int(rng.integers(1, 5))
            cv2.rectangle(image, (x, y), (x + ww, y + hh), _colour(rng).tolist(), edge)
        if rng.random() < 0.3:
            cv2.line(image, (x + ww // 2, y), (x + ww // 2, y + hh), _colour(rng).tolist(), 2)
    light = 0.8 + 0.4 * _gradient(rng, h, w).mean(axis=2, keepdims=True)
    return np.asarray(image * light, np.float32)


def _shelves(rng: np.random.Generator, h: int, w: int) -> Image:
    image = np.empty((h, w, 3), np.float32)
    image[:] = _colour(rng, 0.05, 0.4)
    step = int(rng.integers(30, 90))
    for top in range(int(rng.integers(0, step)) - step, h, step):
        x = 0
        while x < w:
            bw = int(rng.integers(4, 22))
            bh = int(step * rng.uniform(0.5, 0.9))
            cv2.rectangle(
                image, (x, top + step - bh), (x + bw - 1, top + step - 4), _colour(rng).tolist(), -1
            )
            x += bw + int(rng.integers(0, 4))
        cv2.rectangle(image, (0, top + step - 4), (w, top + step), _colour(rng).tolist(), -1)
    return image


def _foliage(rng: np.random.Generator, h: int, w: int) -> Image:
    hue = np.array([0.17, 0.36, 0.28], np.float32) * rng.uniform(0.65, 1.35, 3).astype(np.float32)
    t = fractal(rng, h, w, int(rng.integers(10, 40)), 4)
    light = fractal(rng, h, w, 3, 2)
    image = hue * (0.9 + 0.35 * t + 0.3 * light)[..., None]
    if rng.random() < 0.5:
        sky = np.clip(light * 2 - 1.4, 0, 1)[..., None]
        image = image + sky * (np.array([0.95, 0.9, 0.85], np.float32) - image)
    return np.asarray(image, np.float32)


def _distractors(rng: np.random.Generator, image: Image) -> None:
    """Discs and rectangles with a few dark spots: near faces, but none."""
    h, w = image.shape[:2]
    for _ in range(int(rng.integers(1, 5))):
        x, y, r = int(rng.integers(w)), int(rng.integers(h)), int(rng.integers(6, 45))
        colour = _colour(rng).tolist()
        kind = rng.random()
        if kind < 0.4:
            cv2.circle(image, (x, y), r, colour, -1, cv2.LINE_AA)
        elif kind < 0.7:
            cv2.ellipse(
                image,
                (x, y),
                (r, int(r * 1.3)),
                float(rng.uniform(-40, 40)),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
        else:
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), colour, -1)
        for _ in range(int(rng.integers(0, 3))):
            dx, dy = (int(v) for v in rng.uniform(-0.6, 0.6, 2) * r)
            cv2.circle(
                image, (x + dx, y + dy), max(1, r // 6), _colour(rng).tolist(), -1, cv2.LINE_AA
            )


_KINDS: tuple[Callable[[np.random.Generator, int, int], Image], ...] = (
    _gradient,
    _noise,
    _blobs,
    _bricks,
    _stripes,
    _room,
    _shelves,
    _foliage,
)
_ODDS = np.array([1.0, 1.2, 2.0, 1.0, 0.8, 2.2, 1.0, 1.2])


def make_background(rng: np.random.Generator, height: int, width: int) -> Image:
    """A background (height, width, 3) BGR in linear light, [0, 1]."""
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_ODDS / _ODDS.sum()))]
    image = np.ascontiguousarray(kind(rng, height, width))
    if rng.random() < 0.35:
        _distractors(rng, image)
    if rng.random() < 0.6:
        # Depth of field: what lies behind the people is often out of focus.
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 5))), np.float32)
    image = image * (1 + 0.03 * fractal(rng, height, width, 8, 5))[..., None]
    if rng.random() < 0.4:
        image = image * (0.7 + 0.5 * _gradient(rng, height, width).mean(axis=2, keepdims=True))
    return np.asarray(np.clip(image, 0, 1) ** 2.2, np.float32)
