"""Meshes of one head: a lofted skull with facial relief, ears, neck and torso.

Every part is a regular grid of vertices, so normals come from finite differences. See
`identity` for the coordinate system.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .identity import Colour, Identity

Array = NDArray[np.float64]

# Materials decide how a pixel is shaded; `raster` and `shade` know them by these numbers.
FACE, HAIR, CLOTH, SKIN, FRAME, LENS, FABRIC = range(7)

# Horizontal sections of a neutral head: height y, half width, front z, z of the widest point,
# back z. Heights are measured from the line through the eyes.
_SECTIONS = np.array(
    [
        (11.4, 0.05, -7.3, -7.6, -7.9),
        (11.2, 1.9, -5.0, -7.5, -10.3),
        (10.8, 3.1, -3.4, -7.5, -12.0),
        (10.0, 4.5, -1.8, -7.5, -13.8),
        (8.5, 5.9, -0.2, -7.5, -15.6),
        (6.0, 6.95, 1.0, -7.5, -17.0),
        (3.5, 7.3, 1.45, -7.5, -17.4),
        (1.0, 7.2, 1.15, -7.0, -17.2),
        (-1.0, 7.1, 0.75, -6.4, -16.5),
        (-3.0, 6.95, 0.6, -6.0, -15.0),
        (-5.0, 6.6, 0.7, -5.6, -13.0),
        (-7.0, 6.05, 0.9, -5.0, -11.2),
        (-9.0, 4.95, 0.9, -4.0, -9.2),
        (-10.5, 3.75, 0.75, -3.1, -7.0),
        (-11.4, 2.6, 0.4, -2.4, -5.2),
        (-11.9, 1.4, -0.3, -2.0, -3.8),
        (-12.1, 0.05, -1.6, -1.8, -2.0),
    ]
)
TOP = 11.4
CHIN = -12.1


@dataclass
class Grid:
    """One part: vertices (rows, columns, 3), texture coordinates, colour and material.

    `follows` is the share of the head's rotation each vertex takes (1 = rigid with the head,
    0 = rigid with the torso).
    """

    points: Array
    uv: Array
    colour: Array
    material: int
    follows: Array
    two_sided: bool = False


def make_grid(
    points: Array,
    colour: Colour | Array,
    material: int,
    *,
    uv: Array | None = None,
    follows: float | Array = 1.0,
    two_sided: bool = False,
) -> Grid:
    """Wrap vertices (rows, columns, 3) with one colour, or a colour per vertex."""
    shape = points.shape[:2]
    if uv is None:
        v, u = np.meshgrid(np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1]), indexing="ij")
        uv = np.stack([u, v], axis=-1)
    return Grid(
        points=points,
        uv=uv,
        colour=np.broadcast_to(np.asarray(colour, dtype=np.float64), (*shape, 3)),
        material=material,
        follows=np.broadcast_to(np.asarray(follows, dtype=np.float64), shape),
        two_sided=two_sided,
    )


def _lower_shift(y: Array, ident: Identity) -> Array:
    """Move heights below the mouth down as the jaw opens, and stretch the lower face."""
    stretched = np.where(y < 0, y * ident.lower_face, y)
    open_weight = np.clip((ident.mouth_y - 0.3 - y) / 2.5, 0.0, 1.0)
    return stretched - 0.75 * ident.mouth_gap * open_weight


def surface(y: Array, phi: Array, ident: Identity, grow: Array | float = 0.0) -> Array:
    """Points of the skull without relief at heights `y` (cm) and azimuths `phi` (radians, 0 front).

    `grow` pushes the sections outwards by so many centimetres.
    """
    heights = _SECTIONS[::-1, 0]
    half, front, middle, back = (np.interp(y, heights, _SECTIONS[::-1, k]) for k in range(1, 5))
    jaw = np.clip((-3.0 - y) / 6.0, 0.0, 1.0)
    half = half * ident.face_width * (1 + (ident.jaw_width - 1) * jaw) + grow
    power = 2.0 / (ident.section_power - 0.25 * np.clip((y - 5) / 5, 0, 1))
    sin, cos = np.sin(phi), np.cos(phi)
    x = half * np.sign(sin) * np.abs(sin) ** power
    reach = np.where(cos > 0, front - middle + grow, (middle - back) * ident.depth + grow)
    z = middle + reach * np.sign(cos) * np.abs(cos) ** power
    return np.stack([x, _lower_shift(y, ident), z], axis=-1)


def _bump(x: Array, y: Array, at: tuple[float, float], size: tuple[float, float]) -> Array:
    """A Gaussian hill mirrored to both sides of the face."""
    dx = (np.abs(x) - at[0]) / size[0]
    return np.exp(-0.5 * (dx * dx + ((y - at[1]) / size[1]) ** 2))


def relief(x: Array, y: Array, ident: Identity) -> Array:
    """Forward displacement (cm) of the face's features at final x, y."""
    i = ident
    ramp = np.clip((y - 1.2) / (i.nose_y - 1.2), 0.0, 1.0)
    below = np.clip((y - (i.nose_y - 0.15)) / -1.0, 0.0, 1.0)
    height = (0.25 + (i.nose_out - 0.25) * ramp**1.25) * (y < 1.2) * (1 - below * below)
    height += 0.25 * np.exp(-0.5 * ((y - 1.4) / 0.6) ** 2)
    width = (0.55 + 0.5 * ramp**2) * i.nose_width
    out = height * np.exp(-0.5 * np.abs(x / width) ** 2.2)
    out += 1.15 * _bump(x, y, (1.25 * i.nose_width, i.nose_y - 0.15), (0.5, 0.5))
    out += i.brow_ridge * _bump(x, y, (2.6, i.brow_y - 0.1), (1.9, 0.6))
    out -= 1.35 * _bump(x, y, (i.eye_x - 0.35, 0.15), (1.5, 1.05))
    out += 0.75 * _bump(x, y, (i.eye_x, -0.02), (1.15, 0.75))
    out += (i.cheek + 0.35 * max(i.smile, 0)) * _bump(x, y, (4.2, -2.9), (1.7, 1.3))
    out -= (0.2 + 0.25 * i.age) * _bump(x, y, (4.6, -6.3), (1.3, 1.6))
    low = i.mouth_y - i.mouth_gap
    out += 0.85 * np.exp(-0.5 * ((x / 2.3) ** 2 + ((y - i.mouth_y) / 1.9) ** 2))
    lip = 0.5 * i.lip_full
    out += lip * np.exp(-0.5 * ((x / 1.6) ** 2 + ((y - i.mouth_y - 0.45) / 0.35) ** 2))
    out += lip * np.exp(-0.5 * ((x / 1.4) ** 2 + ((y - low + 0.55) / 0.4) ** 2))
    middle = (i.mouth_y + low) / 2
    slit = 0.16 + i.mouth_gap / 2
    out -= (0.25 + 0.5 * min(i.mouth_gap, 1.5)) * np.exp(
        -0.5 * ((x / 1.9) ** 2 + ((y - middle) / slit) ** 2)
    )
    chin_y = -10.2 * i.lower_face - 0.75 * i.mouth_gap
    out -= 0.4 * np.exp(-0.5 * ((x / 1.8) ** 2 + ((y - (low - 1.7)) / 0.5) ** 2))
    out += i.chin * np.exp(-0.5 * ((x / 1.5) ** 2 + ((y - chin_y) / 1.1) ** 2))
    return out


def beard_weight(x: Array, y: Array, ident: Identity) -> Array:
    """Where a beard grows, in [0, 1], at head-space x, y (cm)."""
    m = ident.mouth_y
    low = m - ident.mouth_gap
    # Low on the chin the beard spans the face; on the cheeks only its outer part grows.
    jaw = np.clip((m - 0.6 - y) / 1.6 + np.clip((np.abs(x) - 3.6) / 1.0, 0, 2.2), 0, 1)
    tall = 1.2 + ident.mouth_gap / 2
    mouth = np.exp(-0.5 * ((x / 2.4) ** 4 + ((y - (m + low) / 2) / tall) ** 4))
    cheek = np.clip((-1.5 - y) / 2.5, 0, 1)
    return np.asarray(np.clip(jaw * cheek * (1 - mouth), 0, 1))


def _azimuths(count: int) -> Array:
    """Azimuths from -pi to pi, densest at the nose."""
    front = max(8, int(count * 0.38))
    t = np.linspace(0, 1, front)
    half = (np.pi / 2) * (t + 1.3 * t**3) / 2.3
    back = np.linspace(np.pi / 2, np.pi, max(4, count // 2 - front) + 1)[1:]
    side = np.concatenate([half, back])
    return np.concatenate([-side[:0:-1], side])


def head_grid(ident: Identity, detail: float) -> Grid:
    """The skull and face; `detail` in (0, 1] thins the grid for small heads."""
    anchors = np.array([TOP, 10.9, 9, 5, 3.2, -8.6, -11, -11.8, CHIN])
    counts = np.maximum(1, np.round(np.array([3, 4, 5, 4, 46, 8, 5, 4]) * detail)).astype(int)
    rows = [
        np.linspace(a, b, c, endpoint=False)
        for a, b, c in zip(anchors[:-1], anchors[1:], counts, strict=True)
    ]
    y = np.concatenate([*rows, [CHIN]])
    yy, pp = np.meshgrid(y, _azimuths(int(88 * detail)), indexing="ij")
    points = surface(yy, pp, ident)
    front = np.clip(np.cos(pp) * 1.8, 0, 1)
    x, height = points[..., 0], points[..., 1]
    points[..., 2] += front * relief(x, height, ident)
    if ident.beard_length > 0:
        weight = beard_weight(x, height, ident) * (np.cos(pp) > -0.2)
        grow = ident.beard_length * weight
        points[..., 1] -= grow * 0.9 * np.clip((-9.0 - height) / 3, 0, 1)
        points[..., 2] += grow * 0.6
        points[..., 0] *= 1 + 0.05 * grow
    # Only the front wears the painted texture; its coordinates are plain head-space x and y.
    # The back of the head looks up the bare strip at the painting's edge instead.
    bare = np.where(np.cos(pp) < 0.0, np.sign(np.sin(pp) + 1e-9) * 7.8, x)
    uv = np.stack([bare, height], axis=-1)
    return make_grid(points, ident.skin, FACE, uv=uv)


def ear_grids(ident: Identity) -> list[Grid]:
    """Two flattened ellipsoids with a hollow, standing off the sides of the head."""
    v, u = np.meshgrid(np.linspace(0, np.pi, 12), np.linspace(-np.pi, np.pi, 19), indexing="ij")
    grids = []
    for side in (-1.0, 1.0):
        a, b, c = np.sin(v) * np.cos(u), np.cos(v), np.sin(v) * np.sin(u)
        hollow = np.exp(-((a * 1.8) ** 2 + (b * 1.5) ** 2)) * (c * side > 0)
        depth = c * 0.55 - side * 0.55 * hollow
        z = -7.6 + 1.65 * a * (1 + 0.25 * b) - 0.8 * depth * side
        x = side * (7.15 * ident.face_width) + depth + side * 0.45 * np.clip(-a, 0, 1)
        points = np.stack([x, -1.1 + 3.1 * b, z], axis=-1)
        red = np.array(ident.skin) * np.array([0.86, 0.88, 1.0])
        shade = (1 - 0.35 * hollow)[..., None] * red
        grids.append(make_grid(points, shade, SKIN))
    return grids


def body_grids(ident: Identity) -> list[Grid]:
    """Neck and torso; the neck's top turns with the head, its foot with the torso."""
    phi = np.linspace(-np.pi, np.pi, 33)
    wide = 5.0 + 5.0 * (ident.jaw_width - 0.93)
    y, pp = np.meshgrid(np.linspace(-3, -21, 12), phi, indexing="ij")
    t = (-3 - y) / 18
    neck = np.stack(
        [wide * np.sin(pp) * (1 + 0.3 * t**3), y, -8.6 - 1.0 * t + 5.1 * np.cos(pp)], axis=-1
    )
    table = np.array(
        [
            (-14.2, 5.9, 5.7),
            (-15.6, 7.4, 6.4),
            (-17.0, 11.0, 7.2),
            (-18.6, 15.8, 8.0),
            (-21.0, 19.2, 9.2),
            (-26.0, 20.8, 10.6),
            (-36.0, 20.5, 11.5),
            (-62.0, 16.5, 10.0),
            (-72.0, 17.5, 10.5),
            (-78.0, 16.5, 10.0),
            (-160.0, 10.5, 7.0),
        ]
    )
    y, pp = np.meshgrid(
        np.interp(np.linspace(0, 10, 26), np.arange(11), table[:, 0]), phi, indexing="ij"
    )
    a, b = (np.interp(-y, -table[:, 0], table[:, k]) for k in (1, 2))
    torso = np.stack([a * np.sin(pp), y - 0.6 * np.cos(pp), -9.6 + b * np.cos(pp)], axis=-1)
    first, second = np.array(ident.cloth), np.array(ident.cloth_second)
    pick = np.zeros(y.shape)
    if ident.cloth_pattern == "collar":
        pick = (np.abs(pp) < 0.5) & (y > -27)
    elif ident.cloth_pattern == "stripes":
        pick = (np.arange(y.shape[0]) % 2 == 0)[:, None] & np.ones(y.shape, bool)
    elif ident.cloth_pattern == "checks":
        pick = (np.arange(y.shape[0])[:, None] + np.arange(33)[None, :]) % 2 == 0
    cloth = np.where(np.asarray(pick, bool)[..., None], second, first)
    # Trousers or a skirt, where a small figure shows that much.
    cloth = np.where((y < -70)[..., None], np.array(ident.cloth_second) * 0.5, cloth)
    skin = np.array(ident.skin) * 0.93
    neck_colour = np.where((ident.headwear == "scarf"), np.array(ident.headwear_colour), skin)
    return [
        make_grid(neck, neck_colour, SKIN, follows=np.clip(1 - 1.25 * t, 0, 1)),
        make_grid(torso, cloth, CLOTH, follows=0.0),
    ]


def landmark_points(ident: Identity) -> Array:
    """Left eye, right eye, nose tip, left and right mouth corner (5, 3); left = image's left."""
    low = ident.mouth_y - ident.mouth_gap
    corner_y = (ident.mouth_y + low) / 2 + 0.45 * ident.smile
    xy = np.array(
        [
            (-ident.eye_x, 0.0),
            (ident.eye_x, 0.0),
            (0.0, ident.nose_y),
            (-ident.mouth_half, corner_y),
            (ident.mouth_half, corner_y),
        ]
    )
    return on_face(xy, ident)


def on_face(xy: Array, ident: Identity) -> Array:
    """Lift final head-space x, y (n, 2) onto the face's surface (n, 3)."""
    # Undo the jaw's shift by a table: the shift is monotone in y.
    heights = np.linspace(TOP, CHIN, 400)
    source = np.interp(-xy[:, 1], -_lower_shift(heights, ident), heights)
    phi = np.linspace(-np.pi / 2, np.pi / 2, 241)
    out = np.zeros((len(xy), 3))
    for k, (x, y) in enumerate(xy):
        ring = surface(np.full(phi.shape, source[k]), phi, ident)
        z = float(np.interp(x, ring[:, 0], ring[:, 2]))
        # The same fading of the relief towards the sides as on the mesh itself.
        angle = float(np.interp(x, ring[:, 0], phi))
        z += float(np.clip(np.cos(angle) * 1.8, 0, 1)) * float(
            relief(np.array(x), np.array(y), ident)
        )
        out[k] = (x, y, z)
    return out


def outline_points(ident: Identity) -> Array:
    """Points that span the face box: jaw line ear to ear, chin and brows (n, 3)."""
    y = np.array([0.3, -3, -5.5, -8, -10, -11.3, -11.9])
    phi = np.array([88, 85, 80, 68, 52, 32, 12]) * np.pi / 180
    right = surface(y, phi, ident)
    left = right * np.array([-1.0, 1.0, 1.0])
    brows = on_face(
        np.array(
            [
                (s * x, ident.brow_y + d)
                for s in (-1, 1)
                for x, d in ((0.8, 0.0), (2.8, 0.35), (4.9, -0.2))
            ]
        ),
        ident,
    )
    nose = on_face(np.array([(0.0, ident.nose_y)]), ident)
    return np.concatenate([left, right, brows, nose])
