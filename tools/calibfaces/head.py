"""Renders one posed head into a transparent layer together with its exact label."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .extras import glasses_grids, hair_grids, headwear_grids, mask_grids
from .geometry import (
    Array,
    body_grids,
    ear_grids,
    head_grid,
    landmark_points,
    outline_points,
)
from .identity import Identity
from .raster import rasterise
from .shade import Light, shade
from .texture import paint_face

# The face box in the project's real data reaches beyond the outline of brows, jaw and chin by
# these shares of the outline's own size (measured against its landmarks).
_GROW_SIDE, _GROW_TOP, _GROW_BOTTOM = 0.085, 0.23, -0.005


@dataclass(frozen=True)
class FaceLabel:
    """Ground truth of one face.

    `box` is x, y, width, height in pixels; `landmarks` are five (x, y) in pixels: the eye at the
    image's left for a frontal face, the other eye, nose tip, left and right mouth corner.
    `pitch`, `yaw`, `roll` are degrees: looking up, turning to the image's left and tilting
    clockwise in the image are positive.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    pitch: float
    yaw: float
    roll: float

    def line(self) -> str:
        """The 23 columns of the label file."""
        columns = [f"{v:.1f}" for v in self.box]
        for x, y in self.landmarks:
            columns += [f"{x:.2f}", f"{y:.2f}", "0.0"]
        columns += ["1", f"{self.pitch:.2f}", f"{self.yaw:.2f}", f"{self.roll:.2f}"]
        return " ".join(columns)


@dataclass(frozen=True)
class Layer:
    """A rendered head: premultiplied linear light, coverage, and where it goes."""

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]
    left: int
    top: int
    label: FaceLabel

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that the layer covers."""
        rows, columns = self.alpha.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)


def rotation(pitch: float, yaw: float, roll: float) -> Array:
    """Head to camera rotation for angles in degrees (x right, y up, z towards the viewer).

    Roll is applied first, then yaw, then pitch: the order of the AFLW2000 annotations.
    """
    p, y, r = np.radians([pitch, yaw, roll])
    cp, sp, cy, sy, cr, sr = np.cos(p), np.sin(p), np.cos(y), np.sin(y), np.cos(r), np.sin(r)
    rx = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    ry = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    rz = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(rx @ ry @ rz)


@dataclass(frozen=True)
class Placement:
    """Where and how large a head appears: box centre and mean box side in pixels."""

    x: float
    y: float
    side: float
    pitch: float
    yaw: float
    roll: float
    camera_cm: float
    body: tuple[float, float, float]


_HEAD_PIVOT = np.array([0.0, -8.0, -8.5])
_FOCUS = np.array([0.0, -3.0, -4.0])


def _outline_box(points: Array) -> Array:
    """Face box (x, y, width, height) of the projected outline."""
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = high - low
    x = low[0] - _GROW_SIDE * width
    y = low[1] - _GROW_TOP * height
    return np.array([x, y, width * (1 + 2 * _GROW_SIDE), height * (1 + _GROW_TOP + _GROW_BOTTOM)])


def render_head(
    ident: Identity,
    place: Placement,
    light: Light,
    frame: tuple[int, int],
    rng: np.random.Generator,
) -> Layer:
    """Render one head for a frame of (height, width) pixels."""
    turn = rotation(place.pitch, place.yaw, place.roll)
    torso_turn = rotation(*place.body)
    focus = turn @ (_FOCUS - _HEAD_PIVOT)

    def posed(points: Array, follows: Array | float = 1.0) -> Array:
        shifted = points - _HEAD_PIVOT
        head, torso = shifted @ turn.T, shifted @ torso_turn.T
        share = np.asarray(follows)[..., None]
        return np.asarray(share * head + (1 - share) * torso - focus)

    def project(points: Array) -> Array:
        shrink = place.camera_cm / np.maximum(place.camera_cm - points[..., 2:], 10.0)
        return np.asarray(points[..., :2] * np.array([1.0, -1.0]) * shrink)

    # First place the face box without scale, then scale it to the wanted size and position.
    outline = project(posed(outline_points(ident)))
    box = _outline_box(outline)
    scale = place.side / float(np.sqrt(box[2] * box[3]))
    shift = np.array([place.x, place.y]) - scale * (box[:2] + box[2:] / 2)
    marks = scale * project(posed(landmark_points(ident))) + shift
    label = FaceLabel(
        box=(
            float(scale * box[0] + shift[0]),
            float(scale * box[1] + shift[1]),
            float(scale * box[2]),
            float(scale * box[3]),
        ),
        landmarks=tuple((float(x), float(y)) for x, y in marks),
        pitch=place.pitch,
        yaw=place.yaw,
        roll=place.roll,
    )
    # Small heads are drawn larger and averaged down, so that they look photographed.
    fine = float(np.clip(110 / place.side, 1.2, 3.0))
    detail = float(np.clip(place.side * fine / 160, 0.4, 1.0))
    grids = [
        head_grid(ident, detail),
        *ear_grids(ident),
        *body_grids(ident),
        *hair_grids(ident, rng, detail),
        *headwear_grids(ident, rng),
        *glasses_grids(ident, rng),
        *mask_grids(ident),
    ]
    placed = [posed(g.points, g.follows) for g in grids]
    flat = [scale * project(p) + shift for p in placed]
    everything = np.concatenate([f.reshape(-1, 2) for f in flat])
    low = np.maximum(np.floor(everything.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(everything.max(axis=0)) + 1, [frame[1], frame[0]]).astype(int)
    width, height = (int(v) for v in np.maximum(high - low, 1))
    wide, tall = max(1, round(width * fine)), max(1, round(height * fine))
    ratio = np.array([wide / width, tall / height])
    screen = [(f - low + 0.5) * ratio - 0.5 for f in flat]
    surface = rasterise(grids, placed, screen, wide, tall)
    unit = scale * fine
    paint_scale = float(np.clip(unit * 1.15, 3.0, 20.0))
    colour: NDArray[np.float32] = np.zeros((tall, wide, 4), np.float32)
    if surface.covered.any():
        paint = paint_face(ident, paint_scale, rng)
        colour[surface.covered, :3] = shade(surface, paint, paint_scale, light, unit, rng)
        colour[surface.covered, 3] = 1.0
    if fine < 2:
        colour = np.asarray(cv2.GaussianBlur(colour, (0, 0), 0.6), np.float32)
    if (wide, tall) != (width, height):
        colour = np.asarray(
            cv2.resize(colour, (width, height), interpolation=cv2.INTER_AREA), np.float32
        )
    return Layer(colour[..., :3], colour[..., 3], int(low[0]), int(low[1]), label)
