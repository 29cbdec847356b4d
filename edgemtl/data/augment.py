"""Random changes of face pictures that keep their labels true.

All functions take and return :class:`Sample` with a ``faces`` label and draw from the generator
they are given. They follow the RetinaFace pipeline that MOS extends with pose (MOS, section 5):
a mirror negates yaw and roll, a rotation of the image turns the whole pose with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.samples import Faces, Sample

#: faces whose shorter side falls below this on the network's canvas teach nothing (MOS, section 5)
SMALLEST_FACE_PX = 5.0


def faces_of(sample: Sample) -> Faces:
    """The faces of a sample, empty when it has no face label."""
    faces: Any = sample.labels.get("faces")
    return faces if isinstance(faces, Faces) else Faces.empty()


def mirror(sample: Sample) -> Sample:
    """Flip left and right."""
    width = sample.image.shape[1]
    image = np.ascontiguousarray(sample.image[:, ::-1])
    return Sample(sample.name, image, {"faces": faces_of(sample).mirrored(width)})


def jitter_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness +-32, contrast and saturation x 0.5..1.5, hue +-18 degrees, sometimes grey."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.5:
        pixels += rng.uniform(-32, 32)
    if rng.random() < 0.5:
        mean = pixels.mean()
        pixels = (pixels - mean) * rng.uniform(0.5, 1.5) + mean
    out = np.clip(pixels, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(out, cv2.COLOR_BGR2HSV).astype(np.float32)
        # OpenCV keeps hue in half degrees so that it fits a byte.
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-9, 9)) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.5), 0, 255)
        out = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), np.uint8)
    if rng.random() < 0.05:
        grey = cv2.cvtColor(out, cv2.COLOR_BGR2GRAY)
        out = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    return out


def degrade(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Sometimes blur, add noise or recompress, as cheap cameras do."""
    out = image
    if rng.random() < 0.15:
        size = int(rng.choice([3, 5]))
        out = np.asarray(cv2.GaussianBlur(out, (size, size), 0), np.uint8)
    if rng.random() < 0.1:
        noise = rng.normal(0, rng.uniform(2, 8), out.shape)
        out = np.clip(out + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = int(rng.integers(30, 80))
        encoded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        out = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return out


def turned_pose(pose: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """Head poses after the image was turned clockwise.

    An angle is not simply added to roll: roll is the *first* of the three turns (the order of the
    AFLW2000 annotations), the image's turn is the last, so a face in profile that is turned by 90
    degrees looks up or down. MOS (section 5) adds to roll, which is right for frontal faces only.

    Args:
        pose: (n, 3) yaw, pitch, roll in degrees; positive is turning to the image's left, looking
            up, and tilting clockwise. NaN stays NaN.
        degrees: how far the image was turned clockwise.

    Returns:
        (n, 3) in the same form; yaw within -90 to 90, pitch and roll within -180 to 180.
    """
    yaw, pitch, roll = np.radians(pose.astype(np.float64)).T
    turn = np.radians(degrees)
    # Camera axes: x right, y up, z towards the viewer. These are the entries of
    # Rx(pitch) Ry(yaw) Rz(roll) that the angles can be read from, the first two rows turned.
    cos_yaw, sin_yaw = np.cos(yaw), np.sin(yaw)
    upper = np.stack([cos_yaw * np.cos(roll), cos_yaw * np.sin(roll), -sin_yaw])
    lower = np.stack(
        [
            -np.cos(pitch) * np.sin(roll) + np.sin(pitch) * sin_yaw * np.cos(roll),
            np.cos(pitch) * np.cos(roll) + np.sin(pitch) * sin_yaw * np.sin(roll),
            np.sin(pitch) * cos_yaw,
        ]
    )
    first = np.cos(turn) * upper + np.sin(turn) * lower
    second = np.cos(turn) * lower - np.sin(turn) * upper
    angles = [
        np.arcsin(np.clip(-first[2], -1, 1)),
        np.arctan2(second[2], np.cos(pitch) * cos_yaw),
        np.arctan2(first[1], first[0]),
    ]
    return np.asarray(np.degrees(np.stack(angles, axis=1)), np.float32)


def rotate(sample: Sample, degrees: float) -> Sample:
    """Turn a picture clockwise about its centre, keeping its size; borders are replicated.

    Boxes become the upright boxes around their turned ellipses, which stay tight on a head where
    turned corners would not.
    """
    faces = faces_of(sample)
    height, width = sample.image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    image = cv2.warpAffine(sample.image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    turn, shift = matrix[:, :2].astype(np.float32), matrix[:, 2].astype(np.float32)
    centre = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 @ turn.T + shift
    half = (faces.boxes[:, 2:] - faces.boxes[:, :2]) / 2
    extent = np.sqrt((half**2) @ (turn.T**2))
    boxes = np.concatenate([centre - extent, centre + extent], axis=1).astype(np.float32)
    landmarks = (faces.landmarks @ turn.T + shift).astype(np.float32)
    pose = turned_pose(faces.pose, degrees)
    return Sample(
        sample.name, np.asarray(image, np.uint8), {"faces": Faces(boxes, landmarks, pose)}
    )


def visible(faces: Faces, height: float, width: float, smallest: float) -> Faces:
    """Faces whose centre lies on the canvas and whose shorter side is ``smallest`` px or more.

    Boxes are clipped to the canvas; landmarks are kept where they are, a network may answer beyond
    the border.
    """
    if len(faces) == 0:
        return faces
    centre = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    inside = ((centre > 0) & (centre < np.array([width, height]))).all(axis=1)
    boxes = faces.boxes.clip(0, np.array([width, height, width, height], np.float32))
    side = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    kept = inside & (side >= smallest)
    return Faces(boxes[kept], faces.landmarks[kept], faces.pose[kept])


def place(
    sample: Sample,
    canvas: NDArray[np.uint8],
    scale: float,
    left: int,
    top: int,
    smallest: float = SMALLEST_FACE_PX,
) -> Sample:
    """Scale a picture and paste it onto a canvas (which is copied) with its corner at left, top.

    What hangs over the canvas is cut off; faces cut beyond their centre lose their label.
    """
    out = canvas.copy()
    height, width = canvas.shape[:2]
    size = (
        max(1, round(sample.image.shape[1] * scale)),
        max(1, round(sample.image.shape[0] * scale)),
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(sample.image, size, interpolation=method)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size[0], width), min(top + size[1], height)
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = image[y0 - top : y1 - top, x0 - left : x1 - left]
    faces = faces_of(sample).moved(
        size[0] / sample.image.shape[1], size[1] / sample.image.shape[0], left, top
    )
    return Sample(sample.name, out, {"faces": visible(faces, height, width, smallest)})


def merge_faces(parts: Sequence[Faces]) -> Faces:
    """All faces of several label sets."""
    return Faces(
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.landmarks for p in parts]),
        np.concatenate([p.pose for p in parts]),
    )


def mosaic(samples: Sequence[Sample], smallest: float = SMALLEST_FACE_PX) -> Sample:
    """Four equal square pictures at half size in the quadrants of one (online feedback sampling).

    Doubles the density of small faces at constant compute (MOS, section 5).
    """
    side = samples[0].image.shape[0]
    half = side // 2
    canvas = np.full((side, side, 3), 114, np.uint8)
    parts = []
    for index, sample in enumerate(samples[:4]):
        top, left = (index // 2) * half, (index % 2) * half
        tile = place(sample, np.zeros((half, half, 3), np.uint8), half / side, 0, 0, smallest)
        canvas[top : top + half, left : left + half] = tile.image
        parts.append(faces_of(tile).moved(1, 1, left, top))
    return Sample("mosaic", canvas, {"faces": merge_faces(parts)})


def square_crop(
    sample: Sample, side: int, rng: np.random.Generator, scales: tuple[float, float]
) -> Sample:
    """A random square of the picture, resized to ``side``.

    Args:
        sample: any picture.
        side: output side in pixels.
        scales: range of the square's side relative to the picture's shorter side; above 1 the
            square reaches beyond the picture and the rest is the mean colour.
    """
    height, width = sample.image.shape[:2]
    best = sample
    for _ in range(20):
        crop = min(height, width) * rng.uniform(*scales)
        left = _corner(rng, width, crop)
        top = _corner(rng, height, crop)
        scale = side / crop
        canvas = np.empty((side, side, 3), np.uint8)
        canvas[:] = (104, 117, 123)
        best = place(sample, canvas, scale, round(-left * scale), round(-top * scale))
        if len(faces_of(best)) or not len(faces_of(sample)):
            break
    return best


def _corner(rng: np.random.Generator, extent: int, crop: float) -> float:
    free = extent - crop
    return float(rng.uniform(min(free, 0), max(free, 0)))
