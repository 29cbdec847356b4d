"""Small seeded data sets in the layouts of the real ones, written where a test says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from support.dense_family import CLASSES


def random_image(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of smooth colour with some noise: JPEG-friendly, not flat."""
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    noisy = smooth + rng.normal(0, 6, smooth.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _write(path: Path, image: NDArray[np.integer[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(encoded.tobytes())


def face_line(
    box: Sequence[float],
    landmarks: NDArray[np.floating] | None = None,
    pitch_yaw_roll: Sequence[float] = (float("nan"),) * 3,
) -> str:
    """One 23-column label line; landmarks (5, 2) or None for unlabelled."""
    values = [f"{v:.3f}" for v in box]
    for point in range(5):
        if landmarks is None:
            values += ["-1", "-1", "-1"]
        else:
            values += [f"{landmarks[point, 0]:.3f}", f"{landmarks[point, 1]:.3f}", "0"]
    return " ".join([*values, "1", *(f"{v:.3f}" for v in pitch_yaw_roll)])


def write_face_folder(
    root: Path,
    split: str = "val",
    count: int = 4,
    seed: int = 0,
    size: tuple[int, int] = (120, 160),
    faces: int = 2,
) -> Path:
    """Write ``root/split/{images,label.txt}`` with random boxes, landmarks and pose.

    The faces are flat ellipses with dots: something to see, nothing a detector would call a face.
    Picture ``i`` has ``i % (faces + 1)`` faces, so the first has none. Returns ``root``.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for index in range(count):
        image = random_image(rng, size)
        name = f"{index:04d}.jpg"
        lines.append(f"# {name}")
        for _ in range(index % (faces + 1)):
            width = float(rng.uniform(24, 48))
            height = width * 1.25
            x = float(rng.uniform(0, size[1] - width))
            y = float(rng.uniform(0, size[0] - height))
            relative = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
            points = relative * [width, height] + [x, y]
            centre = (round(x + width / 2), round(y + height / 2))
            axes = (round(width / 2), round(height / 2))
            cv2.ellipse(image, centre, axes, 0, 0, 360, (150, 180, 220), -1)
            for px, py in points:
                cv2.circle(image, (round(px), round(py)), 2, (30, 30, 60), -1)
            angles = rng.uniform(-60, 60, 3)
            lines.append(face_line((x, y, width, height), points, angles.tolist()))
        _write(root / split / "images" / name, image)
    (root / split / "label.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return root


def write_dense_folder(
    root: Path,
    split: str = "val",
    count: int = 4,
    seed: int = 0,
    size: tuple[int, int] = (90, 120),
    kinds: Sequence[str] = ("segmentation", "depth"),
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write ``root/split/images`` with ``labels`` (classes) and / or ``depth_mm`` beside it.

    Some pixels are unlabelled in both. Returns ``root``.
    """
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = random_image(rng, size)
        label = np.zeros(size, np.uint8)
        depth = np.full(size, 3000, np.uint16)
        depth -= np.linspace(0, 1500, size[0]).astype(np.uint16)[:, None]
        for cls in range(1, len(classes)):
            y, x = (int(rng.integers(0, max(side - 20, 1))) for side in size)
            h, w = (int(v) for v in rng.integers(16, 40, 2))
            label[y : y + h, x : x + w] = cls
            depth[y : y + h, x : x + w] = 600 + 300 * cls
            image[y : y + h, x : x + w] = (50 * cls, 255 - 60 * cls, 120)
        label[:2] = 255
        depth[:, :3] = 0
        _write(root / split / "images" / f"{index:04d}.jpg", image)
        if "segmentation" in kinds:
            _write(root / split / "labels" / f"{index:04d}.png", label)
        if "depth" in kinds:
            _write(root / split / "depth_mm" / f"{index:04d}.png", depth)
    if "segmentation" in kinds:
        (root / "classes.json").write_text(json.dumps(list(classes)), "utf-8")
    return root
