"""The painted face: skin, brows, eyes, lips and beard as an image over head-space x, y."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import Array, beard_weight
from .identity import Colour, Identity

Image = NDArray[np.float32]

# The painted window, centimetres of head space.
LEFT, RIGHT, HIGH, LOW = -8.0, 8.0, 9.0, -17.0


def fractal(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int) -> Image:
    """Smooth noise with about zero mean and unit spread; `cells` = blobs across at the coarsest."""
    out = np.zeros((height, width), np.float32)
    gain = 1.0
    for _ in range(octaves):
        rows = max(2, round(cells * height / width))
        coarse = rng.standard_normal((min(rows, height), min(cells, width))).astype(np.float32)
        out += gain * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, gain = cells * 2, gain * 0.55
    return out


class Painter:
    """Draws anti-aliased shapes given in centimetres onto an image of `scale` pixels per cm."""

    def __init__(self, scale: float, base: Colour) -> None:
        self.scale = scale
        self.width = round((RIGHT - LEFT) * scale)
        self.height = round((HIGH - LOW) * scale)
        self.image: Image = np.empty((self.height, self.width, 3), np.float32)
        self.image[:] = base
        x = (np.arange(self.width) + 0.5) / scale + LEFT
        y = HIGH - (np.arange(self.height) + 0.5) / scale
        self.x, self.y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))

    def window(self, cx: float, cy: float, rx: float, ry: float) -> tuple[slice, slice]:
        """Index of the part of the image within (rx, ry) cm of a point."""
        s = self.scale
        top, left = (HIGH - cy - ry) * s, (cx - rx - LEFT) * s
        rows = slice(max(0, int(top)), max(1, int(top + 2 * ry * s) + 1))
        return rows, slice(max(0, int(left)), max(1, int(left + 2 * rx * s) + 1))

    def blend(
        self, mask: Array | Image, colour: Colour | Array, at: tuple[slice, slice] | None = None
    ) -> None:
        """Mix a colour in by a mask in [0, 1]."""
        if at is None:
            # Most masks are small; touch only the part of the painting they cover.
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if not len(rows):
                return
            at = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            mask = mask[at]
        part = self.image[at]
        part += mask[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - part)

    def shade(self, cx: float, cy: float, rx: float, ry: float, factor: Colour | Array) -> None:
        """Multiply a soft ellipse (radii of one standard deviation, cm) towards a factor."""
        at = self.window(cx, cy, 3 * rx, 3 * ry)
        x, y = self.x[at], self.y[at]
        mask = np.exp(-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)).astype(np.float32)
        self.image[at] *= 1 + mask[..., None] * (np.asarray(factor, np.float32) - 1)

    def polygon(self, points: Array, blur: float = 0.0) -> Image:
        """A mask in [0, 1] of a closed polygon (n, 2) in cm, softened by `blur` cm."""
        mask = np.zeros((self.height, self.width), np.uint8)
        pixels = np.stack(
            [(points[:, 0] - LEFT) * self.scale, (HIGH - points[:, 1]) * self.scale], axis=-1
        )
        cv2.fillPoly(mask, [np.round((pixels - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        sigma = max(0.3, blur * self.scale) if blur > 0 else 0.0
        reach = int(3 * sigma) + 2
        low = np.maximum(pixels.min(axis=0).astype(int) - reach, 0)
        high = np.maximum(pixels.max(axis=0).astype(int) + reach + 1, 1)
        at = (slice(low[1], high[1]), slice(low[0], high[0]))
        part = mask[at].astype(np.float32) / 255
        out = np.zeros(mask.shape, np.float32)
        out[at] = cv2.GaussianBlur(part, (0, 0), sigma) if sigma and part.size else part
        return out

    def stroke(self, points: Array, width: float | Array, blur: float = 0.03) -> Image:
        """A mask of a thick curve through points (n, 2) in cm; `width` in cm, scalar or (n,)."""
        tangent = np.gradient(points, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=-1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        half = normal * (np.broadcast_to(width, len(points))[:, None] / 2)
        return self.polygon(np.concatenate([points + half, (points - half)[::-1]]), blur)


def _skin(p: Painter, ident: Identity, rng: np.random.Generator) -> None:
    """Blotches, blush, folds and freckles on the bare skin."""
    h, w = p.height, p.width
    p.image *= (1 + 0.025 * fractal(rng, h, w, 6, 4))[..., None]
    p.image *= (1 + 0.02 * rng.standard_normal((h, w)).astype(np.float32))[..., None]
    blush = np.array([0.86, 0.86, 1.03]) - 0.06 * ident.makeup * np.array([1, 1, 0])
    for side in (-1.0, 1.0):
        p.shade(side * 4.0, -3.4, 1.5, 1.2, blush)
        p.shade(side * (ident.eye_x - 0.2), 0.25, 1.35, 0.8, (0.8, 0.8, 0.84))
        p.shade(side * 1.5, 0.45, 0.6, 0.8, (0.8, 0.8, 0.83))
        bag = 1 - 0.22 * ident.age
        p.shade(side * ident.eye_x, -1.15, 1.1, 0.3, (bag, bag, bag))
        fold = np.array([(side * 1.75, -3.6), (side * 2.5, -4.8), (side * 3.0, -6.2)])
        deep = float(np.clip(0.1 + 0.3 * ident.age + 0.3 * ident.smile, 0, 0.6))
        p.blend(p.stroke(fold, 0.28, 0.2) * deep, np.array(ident.skin) * 0.5)
        p.shade(side * 1.35 * ident.nose_width, ident.nose_y - 0.2, 0.22, 0.5, (0.8, 0.8, 0.83))
    p.shade(0, ident.nose_y, 0.9, 0.7, (0.92, 0.92, 1.0))
    p.shade(0, ident.nose_y - 0.95, 0.9, 0.3, (0.9, 0.9, 0.92))
    p.shade(0, ident.mouth_y - ident.mouth_gap - 1.55, 1.2, 0.35, (0.8, 0.8, 0.83))
    if ident.age > 0.6:
        for k in range(3):
            x = np.linspace(-3.2, 3.2, 15)
            y = 4.0 + 0.9 * k + 0.15 * np.cos(x) + 0.06 * rng.standard_normal(15)
            p.blend(
                p.stroke(np.stack([x, y], -1), 0.12, 0.07) * (ident.age - 0.4),
                np.array(ident.skin) * 0.55,
            )
    if ident.freckles > 0:
        for x, y in zip(rng.normal(0, 3, 60), rng.normal(-2.4, 1.3, 60), strict=True):
            p.shade(x, y, 0.1, 0.1, np.array([0.6, 0.66, 0.75]) ** ident.freckles)


def _eye(p: Painter, ident: Identity, side: float, rng: np.random.Generator) -> None:
    cx, half, rise = side * ident.eye_x, ident.eye_width, ident.eye_open
    t = np.linspace(-1, 1, 21)
    slant = 0.12 * t * side
    upper = np.stack([cx + half * t, rise * (1 - np.abs(t) ** 2.3) + slant], axis=-1)
    lower = np.stack([cx + half * t, -0.62 * rise * (1 - t * t) + slant], axis=-1)
    if ident.makeup > 0.2:
        tint = np.array(ident.skin) * np.array([0.8, 0.62, 0.7])
        p.blend(p.stroke(upper + np.array([0, 0.35]), 0.75, 0.2) * 0.55 * ident.makeup, tint)
    dark = np.array(ident.skin) * 0.35
    crease = upper + np.stack([0 * t, 0.32 + 0.1 * (1 - t * t)], -1)
    p.blend(p.stroke(crease, 0.13, 0.06) * 0.55, dark)
    opening = p.polygon(np.concatenate([upper, lower[::-1]]))
    p.blend(opening, np.array([0.8, 0.82, 0.86]) * rng.uniform(0.8, 1.0))
    ix, iy = cx + ident.gaze[0], 0.1 + ident.gaze[1]
    at = p.window(ix, iy, 1.1, 1.1)
    r = np.hypot(p.x[at] - ix, p.y[at] - iy)
    soft = 0.6 / p.scale + 0.03
    iris = np.clip((0.62 - r) / soft, 0, 1) * opening[at]
    rim = np.clip(0.55 + 0.9 * (0.62 - r), 0.5, 1.1)
    part = p.image[at]
    colour = np.asarray(ident.iris, np.float32) * rim[..., None]
    part += iris[..., None].astype(np.float32) * (colour.astype(np.float32) - part)
    p.blend(np.clip((0.27 - r) / soft, 0, 1) * opening[at], (0.02, 0.02, 0.02), at)
    lid_shadow = p.stroke(upper - np.array([0, 0.12]), 0.3, 0.1) * opening
    p.blend(lid_shadow * 0.55, np.array(ident.skin) * 0.15)
    glint = np.hypot(p.x[at] - ix + 0.2, p.y[at] - iy - 0.22)
    p.blend(np.clip((0.13 - glint) / soft, 0, 1) * opening[at], (1, 1, 1), at)
    lash = 0.12 + 0.16 * ident.makeup
    dark_lash = np.array(ident.hair) * 0.15 + np.array(ident.skin) * 0.08
    p.blend(p.stroke(upper, lash * (1.15 - 0.6 * np.abs(t) ** 2) * 1.3, 0.03) * 0.92, dark_lash)
    p.blend(p.stroke(lower, 0.09 + 0.05 * ident.makeup, 0.05) * 0.5, dark)
    inner = np.array([[cx - side * half * 0.94, -0.06]])
    p.shade(inner[0, 0], inner[0, 1], 0.16, 0.12, (0.7, 0.68, 0.95))


def _brows(p: Painter, ident: Identity, rng: np.random.Generator) -> None:
    t = np.linspace(0, 1, 15)
    strands = 0.75 + 0.3 * rng.standard_normal((p.height, p.width)).astype(np.float32)
    strands = np.asarray(cv2.GaussianBlur(strands, (0, 0), 0.7), np.float32)
    colour = np.array(ident.hair) * 0.6
    if np.mean(colour) > 0.4:
        colour = colour * 0.6
    # Brows stay darker than the skin, or dark faces with grey hair look like a negative.
    colour = np.minimum(0.8 * colour + 0.08 * np.array(ident.skin), np.array(ident.skin) * 0.55)
    for side in (-1.0, 1.0):
        x = side * (ident.eye_x - 2.0 + 4.2 * t)
        arch = 0.45 * np.sin(np.pi * np.clip(t * 0.95 + 0.05, 0, 1) ** 1.3)
        y = ident.brow_y - 0.35 + arch + ident.brow_tilt * (1 - 2 * t) - 0.25 * t**3
        width = ident.brow_thick * (0.75 + 0.6 * np.sin(np.pi * (0.2 + 0.55 * t)) - 0.75 * t**3)
        mask = p.stroke(np.stack([x, y], -1), width, 0.09)
        p.blend(np.clip(mask * strands * 1.15, 0, 1), colour)


def _mouth(p: Painter, ident: Identity, rng: np.random.Generator) -> None:
    half, m, gap = ident.mouth_half, ident.mouth_y, ident.mouth_gap
    t = np.linspace(-1, 1, 25)
    corner = m - gap / 2 + 0.45 * ident.smile
    bow = 1 - np.abs(t) ** 2.2
    sag = 0.2 * ident.smile
    x = half * t
    upper_in = corner + (m - sag - corner) * bow
    lower_in = corner + (m - gap - sag * 1.2 - corner) * bow
    full = 0.78 * ident.lip_full
    cupid = full * (bow**0.8) * (1 - 0.2 * np.exp(-((t / 0.13) ** 2)))
    upper_out = upper_in + cupid
    lower_out = lower_in - 1.15 * full * bow**0.75
    red = np.array(ident.skin) * np.array([0.66, 0.58, 0.86])
    if ident.makeup > 0.35:
        lipstick = np.array([rng.uniform(0.1, 0.4), rng.uniform(0.05, 0.3), rng.uniform(0.5, 0.8)])
        red = red + (ident.makeup - 0.3) * (lipstick - red)

    def ring(a: Array, b: Array) -> Array:
        return np.concatenate([np.stack([x, a], -1), np.stack([x, b], -1)[::-1]])

    p.blend(p.polygon(ring(upper_out, upper_in), 0.06) * 0.85, red * 0.88)
    p.blend(p.polygon(ring(lower_in, lower_out), 0.08) * 0.85, red * 1.06)
    p.shade(0.1, float(lower_in[12]) - 0.5 * full, 0.7, 0.16, (1.12, 1.12, 1.1))
    if gap > 0.08 or ident.smile > 0.45:
        if gap <= 0.3 and ident.smile > 0.45 and ident.teeth:
            lower_in = lower_in - 0.5 * ident.smile * bow
        inside = p.polygon(ring(upper_in, lower_in))
        p.blend(inside, np.array([0.1, 0.08, 0.22]))
        if ident.teeth:
            drop = np.minimum(0.75, (upper_in - lower_in) * 0.85)
            teeth = p.polygon(ring(upper_in - 0.02, upper_in - drop), 0.03) * inside
            gaps = (0.93 + 0.07 * np.cos(p.x * 2 * np.pi / 0.75)).astype(np.float32)
            edge = np.clip(1.25 - np.abs(p.x) / half, 0.2, 1).astype(np.float32)
            p.blend(teeth * gaps * edge, (0.8, 0.87, 0.9))
    else:
        p.blend(
            p.stroke(np.stack([x, upper_in], -1), 0.14 * (1.1 - t * t * 0.6), 0.05) * 0.85,
            red * 0.3,
        )
    for side in (-1.0, 1.0):
        p.shade(side * (half + 0.1), corner, 0.25, 0.25, (0.68, 0.66, 0.7))


def _beard(p: Painter, ident: Identity, rng: np.random.Generator) -> None:
    if ident.beard <= 0.02:
        return
    weight = beard_weight(np.asarray(p.x, np.float64), np.asarray(p.y, np.float64), ident)
    low = ident.mouth_y
    lip = np.exp(-0.5 * ((p.x / 2.6) ** 4 + ((p.y - low - 1.05 + 0.06 * p.x**2) / 0.5) ** 2))
    lip *= np.clip((p.y - (low + 0.55 - 0.1 * p.x**2)) / 0.25, 0, 1)
    strength = np.clip(weight * ident.beard + lip * ident.moustache, 0, 1)
    grain = rng.standard_normal((p.height, p.width)).astype(np.float32)
    grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), sigmaX=0.6, sigmaY=1.4), np.float32)
    mask = np.clip(strength * 1.05 + (strength > 0.05) * 0.25 * grain * strength, 0, 0.95)
    p.blend(mask, np.array(ident.hair) * 0.75 + np.array(ident.skin) * 0.06)


def paint_face(ident: Identity, scale: float, rng: np.random.Generator) -> Image:
    """Paint the face at `scale` pixels per centimetre: (H, W, 3) BGR, gamma encoded, in [0, 1]."""
    p = Painter(scale, ident.skin)
    _skin(p, ident, rng)
    for side in (-1.0, 1.0):
        _eye(p, ident, side, rng)
        nostril = np.linspace(-np.pi, np.pi, 17)[:-1]
        hole = np.stack(
            [
                side * 0.72 * ident.nose_width + 0.32 * np.cos(nostril),
                ident.nose_y - 0.66 + 0.15 * np.sin(nostril),
            ],
            axis=-1,
        )
        p.blend(p.polygon(hole, 0.08) * 0.75, np.array(ident.skin) * 0.2)
    _beard(p, ident, rng)
    _mouth(p, ident, rng)
    _brows(p, ident, rng)
    return np.clip(p.image, 0, 1)
