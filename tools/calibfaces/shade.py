"""Light and materials: turns a rasterised head into linear-light colour."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import CLOTH, FABRIC, FACE, FRAME, HAIR, LENS, SKIN, Array
from .raster import Surface
from .texture import HIGH, LEFT, Image, fractal


@dataclass(frozen=True)
class Light:
    """A key light, a fill light and ambient light; directions are unit vectors towards them."""

    key: Array
    key_colour: Array
    fill: Array
    fill_colour: Array
    sky: Array
    ground: Array
    specular: float
    shadow: float


def _direction(azimuth: float, elevation: float) -> Array:
    a, e = np.radians(azimuth), np.radians(elevation)
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def sample_light(rng: np.random.Generator) -> Light:
    """Anything from flat indoor light to a hard side light, warm to cold."""
    warm = rng.normal(0, 0.09)
    tint = np.array([1 - 1.3 * warm, 1.0, 1 + warm])
    hard = rng.beta(1.3, 1.5)
    key = rng.uniform(0.55, 1.0) * (0.5 + 0.7 * hard)
    ambient = rng.uniform(0.22, 0.5) * (1.25 - 0.8 * hard)
    other = np.array([1 + 0.12 * rng.normal(), 1.0, 1 + 0.12 * rng.normal()])
    return Light(
        key=_direction(float(np.clip(rng.normal(0, 38), -85, 85)), rng.uniform(-5, 65)),
        key_colour=key * tint,
        fill=_direction(rng.uniform(-90, 90), rng.uniform(-40, 40)),
        fill_colour=rng.uniform(0.0, 0.35) * other,
        sky=ambient * other * rng.uniform(0.9, 1.2),
        ground=ambient * tint * rng.uniform(0.4, 0.9),
        specular=float(rng.gamma(1.6, 0.5)),
        shadow=float(rng.uniform(0.25, 0.95) * (0.4 + 0.6 * hard)),
    )


def _cast_shadow(s: Surface, light: Light, unit: float) -> Array:
    """Share of the key light each pixel keeps, by marching the depth image towards the light.

    `unit` is pixels per centimetre.
    """
    height, width = s.covered.shape
    depth: NDArray[np.float32] = np.full((height, width), -1e3, np.float32)
    depth[s.covered] = s.depth
    blocked: NDArray[np.float32] = np.zeros((height, width), np.float32)
    for step in (0.8, 1.5, 2.4, 3.6, 5.2, 7.5):
        dx, dy = light.key[0] * step * unit, -light.key[1] * step * unit
        move = np.array([[1, 0, -dx], [0, 1, -dy]], np.float32)
        moved = cv2.warpAffine(
            depth,
            move,
            (width, height),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=-1e3,
        )
        gap = moved - (depth + light.key[2] * step)
        here = np.clip((gap - 0.25) * 1.6, 0, 1) * (gap < 9)
        np.maximum(blocked, here, out=blocked)
    soft = max(0.5, 0.35 * unit)
    weight = cv2.GaussianBlur(s.covered.astype(np.float32), (0, 0), soft)
    soft_blocked = cv2.GaussianBlur(blocked * s.covered, (0, 0), soft)
    share = (soft_blocked / np.maximum(weight, 1e-3))[s.covered]
    return np.asarray(1 - light.shadow * share, np.float32)


def _sample(image: Image, x: Array, y: Array) -> NDArray[np.float32]:
    if len(x) == 0:
        return np.zeros((0, *image.shape[2:]), np.float32)
    # remap wants an image-shaped map; fold the list of pixels into rows below its size limit.
    columns = 1024
    rows = -(-len(x) // columns)
    maps = np.zeros((2, rows * columns), np.float32)
    maps[0, : len(x)], maps[1, : len(x)] = x, y
    out = cv2.remap(
        image,
        maps[0].reshape(rows, columns),
        maps[1].reshape(rows, columns),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(out.reshape(rows * columns, *image.shape[2:])[: len(x)], np.float32)


def shade(
    s: Surface,
    paint: Image,
    paint_scale: float,
    light: Light,
    unit: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Colour of each covered pixel, (n, 3) BGR in linear light."""
    colour = np.array(s.colour, np.float32)
    face = s.material == FACE
    uv = s.uv[face]
    x, y = (uv[:, 0] - LEFT) * paint_scale - 0.5, (HIGH - uv[:, 1]) * paint_scale - 0.5
    colour[face] = _sample(paint, x, y)
    normal = np.asarray(s.normal, np.float32)
    key, key_colour = light.key.astype(np.float32), light.key_colour.astype(np.float32)
    sky, ground = light.sky.astype(np.float32), light.ground.astype(np.float32)
    hair = s.material == HAIR
    if hair.any():
        strands = fractal(rng, 48, 512, 160, 2) + 0.6 * fractal(rng, 48, 512, 24, 2)
        value = _sample(strands, s.uv[hair, 0] * 511, s.uv[hair, 1] * 47)
        colour[hair] *= np.clip(1 + 0.2 * value, 0.45, 1.7)[:, None]
        normal = normal.copy()
        normal[hair, 0] += 0.14 * value
    cloth = (s.material == CLOTH) | (s.material == FABRIC)
    if cloth.any():
        weave = 1 + 0.05 * rng.standard_normal(int(cloth.sum())).astype(np.float32)
        colour[cloth] *= weave[:, None]
    albedo = np.clip(colour, 0, 1) ** 2.2
    kept = _cast_shadow(s, light, unit)
    wrap = np.where((s.material == FACE) | (s.material == SKIN), 0.22, 0.05).astype(np.float32)
    facing = normal @ key
    diffuse = np.clip((facing + wrap) / (1 + wrap), 0, 1) * kept
    fill = np.clip(normal @ light.fill.astype(np.float32) * 0.7 + 0.3, 0, 1)
    up = (0.5 + 0.5 * normal[:, 1:2]).astype(np.float32)
    # Below the chin and inside the neckline little sky is seen.
    sheltered = np.clip((s.height + 17.5) / 4.0, 0, 1) * np.clip((-10.5 - s.height) / 3, 0, 1)
    ambient = (ground + up * (sky - ground)) * (
        1 - 0.55 * sheltered * np.isin(s.material, (SKIN,))
    )[:, None]
    fill_colour = light.fill_colour.astype(np.float32)
    lit = diffuse[:, None] * key_colour + fill[:, None] * fill_colour + ambient
    # Light scattered in skin reddens the edge of the shadow.
    edge = np.exp(-((facing - 0.1) ** 2) / 0.05) * (s.material <= SKIN) * (wrap > 0.1)
    lit[:, 2] *= 1 + 0.12 * edge
    out = albedo * lit
    half = key + np.array([0, 0, 1], np.float32)
    half = half / np.linalg.norm(half)
    shine = np.clip(normal @ half, 0, 1)
    gloss = np.zeros(len(albedo), np.float32)
    for material, power, strength in (
        (FACE, 22, 0.09),
        (SKIN, 22, 0.05),
        (HAIR, 14, 0.07),
        (FRAME, 40, 0.5),
        (LENS, 60, 0.7),
    ):
        mine = s.material == material
        gloss[mine] = strength * shine[mine] ** power
    # Beard, brows and pupils, darker than the bare skin, shine less.
    bare = np.asarray(s.colour, np.float32)[face].mean(axis=1)
    gloss[face] *= np.clip(colour[face].mean(axis=1) / (bare + 1e-3), 0.1, 1) ** 2
    out += (gloss * kept * light.specular)[:, None] * key_colour
    return np.asarray(out, np.float32)
