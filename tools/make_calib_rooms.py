"""Render simple rooms with exactly known classes, depth, normals and edges.

The output has the layout that ``edgemtl`` reads as ``dense``: OUTPUT/train and OUTPUT/val, each
with ``images`` and one folder per kind of label. See calib_data/rooms/README.md for what these
pictures are good for, and what not.

Every pixel is one ray through a pinhole camera inside a box. What it meets first, the box's sides,
cupboards (boxes turned about the vertical) or balls, gives class, depth and normal without any
approximation; only the colours are invented.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLASSES = ("ceiling", "floor", "wall", "cupboard", "ball")
CEILING, FLOOR, WALL, CUPBOARD, BALL = range(5)
#: height and width in pixels; focal length relative to the width
SIZE = (120, 160)
FOCAL = 0.9
SPLITS = ("train", "val")
JPEG_QUALITY = 90
#: side of the sub-pixel grid that colours are averaged over
SAMPLES = 2


@dataclass(frozen=True)
class Camera:
    """Where the eye is and how it is turned; ``turn`` takes camera to room coordinates.

    Camera axes are x right, y up, z towards the viewer; the room's are x, y up, z.
    """

    position: Array
    turn: Array


@dataclass(frozen=True)
class Thing:
    """A cupboard or a ball.

    Attributes:
        kind: CUPBOARD or BALL.
        centre: (3,) metres.
        half: (3,) half the extents; of a ball three times its radius.
        angle: about the vertical, radians.
        colour: (3,) BGR in 0..1.
    """

    kind: int
    centre: Array
    half: Array
    angle: float
    colour: Array


@dataclass(frozen=True)
class Room:
    """A box from the origin to ``extent`` with things in it.

    Attributes:
        extent: (3,) metres.
        things: in it.
        colours: (3, 3) BGR of ceiling, floor and walls.
        stripes: per class of these, stripes per metre, 0 for none.
        light: (3,) position of the lamp.
    """

    extent: Array
    things: tuple[Thing, ...]
    colours: Array
    stripes: Array
    light: Array


@dataclass(frozen=True)
class Hits:
    """What rays meet first; per ray.

    Attributes:
        depth: metres along the optical axis.
        normal: (..., 3) unit, camera axes.
        classes: class.
        things: number of the surface: 0 to 5 the room's sides, then six per thing.
        points: (..., 3) room coordinates.
    """

    depth: Array
    normal: Array
    classes: NDArray[np.int64]
    things: NDArray[np.int64]
    points: Array


def _vertical(angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def random_room(rng: np.random.Generator) -> tuple[Room, Camera]:
    """A room, and a camera that looks across it."""
    extent = np.array([rng.uniform(3, 7), rng.uniform(2.3, 3.2), rng.uniform(3, 7)])
    angle = rng.uniform(0, 2 * np.pi)
    pitch = rng.uniform(-0.35, 0.1)
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    turn = _vertical(angle) @ tilt
    # The eye stands back from the middle, against its direction of view (-z).
    back = turn @ np.array([0, 0, 1.0])
    middle = extent * np.array([0.5, 0, 0.5])
    position = middle + back * np.array([1, 0, 1]) * extent.min() * rng.uniform(0.2, 0.42)
    position[1] = rng.uniform(1.1, 1.8)
    things: list[Thing] = []
    for _ in range(int(rng.integers(2, 6))):
        ahead = -back * np.array([1, 0, 1]) * rng.uniform(0.2, 0.45) * extent.min()
        aside = turn[:, 0] * rng.uniform(-1.3, 1.3)
        spot = (middle + ahead + aside).clip(0.4, extent - 0.4)
        if rng.random() < 0.6:
            half = np.array([rng.uniform(0.2, 0.6), rng.uniform(0.2, 1.0), rng.uniform(0.2, 0.5)])
            kind = CUPBOARD
        else:
            half, kind = np.full(3, rng.uniform(0.12, 0.4)), BALL
        spot[1] = half[1]
        if np.hypot(*(spot - position)[[0, 2]]) < half.max() * 1.5 + 0.5:
            continue
        colour = rng.uniform(0.15, 0.95, 3)
        things.append(Thing(kind, spot, half, rng.uniform(0, np.pi), colour))
    colours = np.stack(
        [rng.uniform(0.75, 1.0, 3), rng.uniform(0.15, 0.7, 3), rng.uniform(0.45, 0.95, 3)]
    )
    stripes = np.where(rng.random(3) < 0.5, rng.uniform(1, 6, 3), 0)
    light = extent * np.array([rng.uniform(0.3, 0.7), 0.95, rng.uniform(0.3, 0.7)])
    return Room(extent, tuple(things), colours, stripes, light), Camera(position, turn)


def cast(room: Room, camera: Camera, rays: Array) -> Hits:
    """Meet every ray's first surface.

    Args:
        rays: (..., 3) camera directions whose z is -1, so that distances along them are depths.
    """
    directions = rays @ camera.turn.T
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = np.where(directions > 0, room.extent - camera.position, -camera.position)
        distances = np.where(directions == 0, np.inf, walls / directions)
    axis = distances.argmin(axis=-1)
    depth = np.take_along_axis(distances, axis[..., None], -1)[..., 0]
    side = np.take_along_axis(directions, axis[..., None], -1)[..., 0] > 0
    normal = -np.eye(3)[axis] * np.where(side, 1.0, -1.0)[..., None]
    classes = np.where(axis == 1, np.where(side, CEILING, FLOOR), WALL)
    surfaces = axis * 2 + side
    for number, thing in enumerate(room.things, start=1):
        found, facing, face = _meet(thing, camera.position, directions)
        nearer = found < depth
        depth = np.where(nearer, found, depth)
        normal = np.where(nearer[..., None], facing, normal)
        classes = np.where(nearer, thing.kind, classes)
        surfaces = np.where(nearer, 6 * number + face, surfaces)
    points = camera.position + directions * depth[..., None]
    return Hits(depth, normal @ camera.turn, classes, surfaces, points)


def _meet(thing: Thing, eye: Array, rays: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """Distances along rays to a thing (infinite where missed), normals, and which of its faces."""
    turn = _vertical(thing.angle)
    start = (eye - thing.centre) @ turn  # into the thing's own axes: the inverse is the transpose
    along = rays @ turn
    if thing.kind == BALL:
        radius = thing.half[0]
        a = (along**2).sum(-1)
        b = (along * start).sum(-1)
        inside = b**2 - a * (start @ start - radius**2)
        distance = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
        distance = np.where(distance > 0, distance, np.inf)
        reached = np.where(np.isfinite(distance), distance, 0)
        normal = (start + along * reached[..., None]) / radius
        return distance, normal @ turn.T, np.zeros(distance.shape, np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        enter = (-np.sign(along) * thing.half - start) / along
        leave = (np.sign(along) * thing.half - start) / along
    # A ray along a pair of faces is between them for ever, or never.
    between = np.where(np.abs(start) < thing.half, -np.inf, np.inf)
    enter = np.where(along == 0, between, enter)
    leave = np.where(along == 0, np.inf, leave)
    axis = enter.argmax(axis=-1)
    distance = enter.max(axis=-1)
    missed = (distance > leave.min(axis=-1)) | (distance <= 0)
    sign = np.sign(np.take_along_axis(along, axis[..., None], -1)[..., 0])
    normal = -np.eye(3)[axis] * sign[..., None]
    return np.where(missed, np.inf, distance), normal @ turn.T, axis * 2 + (sign > 0)


def rays_of(height: int, width: int, focal: float) -> Array:
    """(height, width, 3) camera directions through pixel centres, z = -1."""
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = -(np.arange(height) + 0.5 - height / 2) / focal
    grid = np.stack(np.broadcast_arrays(x[None, :], y[:, None], -1.0), axis=-1)
    return np.asarray(grid, np.float64)


def colours_of(room: Room, camera: Camera, hits: Hits, rng: np.random.Generator) -> Array:
    """(..., 3) BGR in 0..1: one lamp, no shadows, stripes on some sides, things in one colour."""
    base = room.colours[np.minimum(hits.classes, WALL)]
    for number, thing in enumerate(room.things, start=1):
        base = np.where((hits.things // 6 == number)[..., None], thing.colour, base)
    across = np.where(hits.classes == WALL, hits.points[..., 0] + hits.points[..., 2], 0)
    across = np.where(hits.classes == FLOOR, hits.points[..., 0], across)
    rate = room.stripes[np.minimum(hits.classes, WALL)]
    striped = (rate > 0) & (hits.classes <= WALL) & (np.floor(across * rate) % 2 == 1)
    base = np.where(striped[..., None], base * 0.8, base)
    way = room.light - hits.points
    far = np.linalg.norm(way, axis=-1, keepdims=True)
    facing = ((hits.normal @ camera.turn.T) * way / far).sum(-1, keepdims=True).clip(0, 1)
    lit = base * (0.35 + 0.75 * facing / (1 + 0.08 * far**2))
    return np.asarray(lit + rng.normal(0, 0.012, lit.shape))


def edges_of(hits: Hits) -> NDArray[np.uint8]:
    """1 where the right or lower neighbour is another surface, else 0."""
    found = np.zeros(hits.things.shape, np.uint8)
    found[:-1] |= hits.things[:-1] != hits.things[1:]
    found[:, :-1] |= hits.things[:, :-1] != hits.things[:, 1:]
    return found


def render(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """One picture and its label pictures, by folder."""
    while True:
        room, camera = random_room(rng)
        height, width = SIZE
        hits = cast(room, camera, rays_of(height, width, FOCAL * width))
        if hits.depth.min() > 0.3 and len(np.unique(hits.classes)) >= 4:
            break
    fine_rays = rays_of(height * SAMPLES, width * SAMPLES, FOCAL * width * SAMPLES)
    fine = colours_of(room, camera, cast(room, camera, fine_rays), rng)
    colours = fine.reshape(height, SAMPLES, width, SAMPLES, 3).mean(axis=(1, 3))
    vectors = np.round((hits.normal[..., ::-1] + 1) * 32767.5)  # pictures are stored BGR
    return {
        "images": (colours.clip(0, 1) * 255).round().astype(np.uint8),
        "labels": hits.classes.astype(np.uint8),
        "depth_mm": np.round(hits.depth * 1000).astype(np.uint16),
        "normals": vectors.astype(np.uint16),
        "edges": edges_of(hits),
        "saliency": (hits.classes >= CUPBOARD).astype(np.uint8),
    }


def write_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Render one split into ``folder``/``split``, which appears only when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder))
    try:
        temporary.chmod(0o755)  # mkdtemp makes a private folder
        for index in range(count):
            made = render(np.random.default_rng([seed, SPLITS.index(split), index]))
            for kind, image in made.items():
                suffix = "jpg" if kind == "images" else "png"
                path = temporary / kind / f"{split}_{index:03d}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == "jpg" else []
                if not cv2.imwrite(str(path), image, quality):
                    raise OSError(f"could not write {path}")
        if (folder / split).exists():
            shutil.rmtree(folder / split)
        temporary.replace(folder / split)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code (0 done, 1 could not write)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", required=True, type=Path, help="receives train/ and val/")
    parser.add_argument("--train", type=int, default=24, help="pictures in train/")
    parser.add_argument("--val", type=int, default=16, help="pictures in val/")
    parser.add_argument("--seed", type=int, default=20261122, help="of everything")
    options = parser.parse_args(argv)
    if min(options.train, options.val) < 1 or options.seed < 0:
        parser.error("counts are at least 1, and the seed is not negative")
    cv2.setNumThreads(1)
    try:
        for split in SPLITS:
            write_split(options.output, split, getattr(options, split), options.seed)
        names = json.dumps(CLASSES, indent=1) + "\n"
        (options.output / "classes.json").write_text(names, "utf-8")
    except OSError as error:
        print(f"make_calib_rooms: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
