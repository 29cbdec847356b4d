"""Hair, headwear, glasses and face masks as grids around the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .geometry import (
    FABRIC,
    FRAME,
    HAIR,
    LENS,
    TOP,
    Array,
    Grid,
    make_grid,
    on_face,
    relief,
    surface,
)
from .identity import Identity


def _smooth_noise(rng: np.random.Generator, count: int, knots: int) -> Array:
    """Periodic 1-D noise in about [-1, 1]."""
    values = rng.uniform(-1, 1, knots)
    closed = np.append(values, values[0])
    at = np.linspace(0, knots, count)
    return np.asarray(np.interp(at, np.arange(knots + 1), closed))


def _shell(
    ident: Identity, phi: Array, end: Array, thick: Array, *, widen_below: float, flare: float
) -> Array:
    """A cap from the crown down to height `end` per azimuth, `thick` cm (rows, columns) off."""
    rows = thick.shape[0]
    t = np.linspace(0, 1, rows)[:, None]
    y = TOP - 0.02 + (end[None, :] - TOP) * t**1.35
    grow = thick * np.ones_like(y)
    points = surface(np.maximum(y, widen_below), np.broadcast_to(phi, y.shape), ident, grow)
    drop = np.maximum(widen_below - y, 0)
    points[..., 0] += np.sign(points[..., 0]) * flare * drop
    points[..., 2] -= 0.1 * drop
    lift = np.clip((y - 2) / (TOP - 2), 0, 1) * grow * 0.9
    points[..., 1] = np.where(y < widen_below, y, points[..., 1] + lift)
    return points


def _line(phi: Array, stations: Sequence[tuple[float, float]]) -> Array:
    """Height of an edge by absolute azimuth in degrees."""
    return np.interp(np.abs(np.degrees(phi)), [s[0] for s in stations], [s[1] for s in stations])


def hair_grids(ident: Identity, rng: np.random.Generator, detail: float) -> list[Grid]:
    """The hair under or without headwear."""
    style = ident.hair_style
    if style == "bald" or ident.headwear in ("scarf", "hood"):
        return []
    columns, rows = int(30 + 66 * detail), int(12 + 18 * detail)
    phi = np.linspace(-np.pi, np.pi, columns)
    line = ident.hairline
    side = -1.5 if style in ("crop", "short", "afro") else -2.5
    stations = [
        (0, line),
        (28, line - 0.2),
        (48, line - 2.0),
        (60, 2.6),
        (70, side + 1.4),
        (80, side),
        (96, side + 0.5),
        (112, -4.5),
        (180, -7.5),
    ]
    end = _line(phi, stations)
    below, flare = -0.5, 0.0
    thickness = {"crop": 0.3, "short": 0.85, "bob": 1.2, "long": 1.2, "afro": 3.2, "bun": 0.45}
    base = thickness[style] * ident.hair_volume
    if style in ("bob", "long"):
        reach = -6 - 6 * ident.hair_length if style == "bob" else -13 - 14 * ident.hair_length
        drape = np.clip((np.abs(np.degrees(phi)) - 58) / 22, 0, 1)
        end = end + (reach - end) * drape
        flare = 0.03 + 0.1 * ident.hair_length * (style == "bob")
    if ident.fringe > 0 and style != "afro":
        front = np.clip((55 - np.abs(np.degrees(phi) - 12 * ident.part)) / 15, 0, 1)
        end = end - front * ident.fringe * (line - 3.0)
    ragged = 0.45 if style != "crop" else 0.2
    end = end + ragged * _smooth_noise(rng, columns, 37) + 0.3 * _smooth_noise(rng, columns, 11)
    # Hair starts flat at the hairline and is fullest above; a parting leans it to one side.
    t = np.linspace(0, 1, rows)[:, None]
    edge = np.clip((1 - t) / 0.22, 0.18, 1)
    if style in ("bob", "long"):
        hanging = np.clip((np.abs(np.degrees(phi)) - 58) / 22, 0, 1)[None, :]
        edge = np.maximum(edge, hanging * 0.8)
    lean = 1 + 0.25 * ident.part * np.sin(phi)[None, :]
    clumps = 1 + 0.22 * _smooth_noise(rng, columns, 19)[None, :] * np.clip(t * 2, 0, 1)
    # Even the flattest edge clears the chords of the skin's coarser mesh.
    thick = 0.22 + base * edge * lean * clumps
    if ident.headwear in ("beanie", "cap"):
        thick = np.minimum(thick, 0.5)
    points = _shell(ident, phi, end, thick, widen_below=below, flare=flare)
    uv = np.stack(np.broadcast_arrays(phi[None, :] / np.pi * 0.5 + 0.5, t), axis=-1)
    grids = [make_grid(points, ident.hair, HAIR, uv=uv, two_sided=True)]
    if style == "bun":
        v, u = np.meshgrid(np.linspace(0, np.pi, 10), np.linspace(-np.pi, np.pi, 19), indexing="ij")
        r = 2.6 + ident.hair_length
        ball = np.stack([r * np.sin(v) * np.sin(u), r * np.cos(v), r * np.sin(v) * np.cos(u)], -1)
        at = np.array([0, 9.5 + 2.5 * ident.part, -14.0 + 3 * ident.part])
        grids.append(make_grid(ball + at, ident.hair, HAIR, two_sided=True))
    return grids


def headwear_grids(ident: Identity, rng: np.random.Generator) -> list[Grid]:
    """Beanie, peaked cap, hood or head scarf."""
    kind = ident.headwear
    if kind == "none":
        return []
    columns, rows = 61, 18
    phi = np.linspace(-np.pi, np.pi, columns)
    t = np.linspace(0, 1, rows)[:, None]
    colour = np.array(ident.headwear_colour)
    thick = np.full((rows, columns), 0.9)
    below, flare = -0.5, 0.0
    if kind == "beanie":
        end = _line(phi, [(0, 4.6), (60, 3.4), (95, 0.2), (180, -3.0)])
        thick = thick + 0.35 * (t > 0.72) + 0.12 * np.sin(phi * 30)[None, :] * (t > 0.72)
        thick = thick + 1.2 * np.clip(0.3 - t, 0, 1)
    elif kind == "cap":
        end = _line(phi, [(0, 5.0), (70, 3.8), (180, -0.5)])
    elif kind == "hood":
        end = _line(phi, [(0, 6.9), (40, 5.8), (58, -1.0), (66, -15.0), (180, -20.0)])
        thick = thick + 1.0
        flare = 0.12
    else:
        end = _line(phi, [(0, 5.6), (38, 4.4), (55, -2.0), (64, -14.0), (180, -20.0)])
        thick = thick - 0.3
        flare = 0.06
    thick = thick * (1 + 0.08 * _smooth_noise(rng, columns, 13)[None, :])
    points = _shell(ident, phi, end, thick, widen_below=below, flare=flare)
    grids = [make_grid(points, colour, FABRIC, two_sided=True)]
    if kind == "cap":
        u, v = np.meshgrid(np.radians(np.linspace(-62, 62, 25)), np.linspace(0, 1, 7))
        root = surface(np.full(u.shape, 5.0), u, ident, 0.85)
        out = v * np.cos(u) ** 0.8
        root[..., 2] += 6.5 * out
        root[..., 1] += 0.4 - 1.3 * out * out - 0.9 * np.abs(np.sin(u)) ** 2
        second = np.array(ident.cloth_second) if rng.random() < 0.4 else colour
        grids.append(make_grid(root, second * 0.85, FABRIC, two_sided=True))
    return grids


def glasses_grids(ident: Identity, rng: np.random.Generator) -> list[Grid]:
    """Rims, bridge and temples; dark lenses for sunglasses."""
    if ident.glasses == "none":
        return []
    wide, tall = rng.uniform(2.2, 2.7), rng.uniform(1.5, 2.2)
    power = rng.uniform(0.5, 1.0)
    rim = rng.uniform(0.16, 0.42)
    front = float(on_face(np.array([(0.0, -0.3)]), ident)[0, 2]) + 0.1
    turn = np.linspace(-np.pi, np.pi, 37)
    grids: list[Grid] = []
    colour = ident.glasses_colour

    def shape(scale: float, side: float) -> Array:
        c, s = np.cos(turn), np.sin(turn)
        x = (wide + scale) * np.sign(c) * np.abs(c) ** power
        y = (tall + scale) * np.sign(s) * np.abs(s) ** power
        centre = side * (ident.eye_x + 0.05)
        # Lenses wrap a little towards the temples.
        z = front - 0.045 * np.abs(centre + x) ** 1.7
        return np.stack([centre + x, y - 0.35, z], axis=-1)

    for side in (-1.0, 1.0):
        inner, outer = shape(-rim / 2, side), shape(rim / 2, side)
        grids.append(make_grid(np.stack([inner, outer]), colour, FRAME, two_sided=True))
        if ident.glasses == "sun":
            mid = np.broadcast_to(inner.mean(axis=0), inner.shape)
            tint = np.array(colour) * 0.25 + rng.uniform(0.0, 0.05)
            grids.append(
                make_grid(np.stack([mid, (mid + inner) / 2, inner]), tint, LENS, two_sided=True)
            )
        hinge = np.array([side * (ident.eye_x + wide), 0.3, front - 1.6])
        ear = np.array([side * 7.5 * ident.face_width, 0.2, -7.5])
        bar = np.array([0, rim * 0.8, 0])
        path = np.linspace(hinge, ear, 10)
        grids.append(
            make_grid(np.stack([path - bar / 2, path + bar / 2]), colour, FRAME, two_sided=True)
        )
    gap = ident.eye_x - wide
    x = np.linspace(-gap - 0.1, gap + 0.1, 7)
    bridge = np.stack([x, 0.25 - 0.12 * x * x, np.full(7, front + 0.12)], axis=-1)
    bar = np.array([0, rim, 0])
    grids.append(
        make_grid(np.stack([bridge - bar / 2, bridge + bar / 2]), colour, FRAME, two_sided=True)
    )
    return grids


def mask_grids(ident: Identity) -> list[Grid]:
    """A medical face mask from the nose bridge to under the chin."""
    if not ident.face_mask:
        return []
    u, v = np.meshgrid(np.radians(np.linspace(-72, 72, 31)), np.linspace(0, 1, 18))
    edge = np.abs(u) / np.radians(72)
    top = -1.4 - 2.0 * edge**1.2
    bottom = -11.9 + 4.5 * edge**2
    y = top + (bottom - top) * v
    points = surface(y, u, ident, 0.45)
    tent = np.exp(-0.5 * (u / np.radians(26)) ** 2)
    # The cloth spans from the nose over the mouth rather than following the lips.
    bulge = np.interp(v, [0, 0.25, 0.5, 0.85, 1.0], [1.6, 2.7, 2.5, 1.4, 0.4])
    cloth = np.maximum(bulge * tent, relief(points[..., 0], points[..., 1], ident) + 0.1)
    points[..., 2] += cloth + 0.06 * np.sin(v * 28)
    return [make_grid(points, ident.mask_colour, FABRIC, two_sided=True)]
