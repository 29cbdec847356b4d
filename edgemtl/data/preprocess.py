"""How a picture becomes a network's input, and how results find their way back to its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import InputRefused


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to be fed: NCHW float32, ``(pixel - mean) / std``.

    Attributes:
        size: height, width in pixels.
        channel_order: order of the channel axis; pictures are read as BGR.
        mean: per channel of ``channel_order``, in 0..255 units.
        std: per channel, in 0..255 units.
        fill: grey level (0..255) of the letterbox border, equal for all channels, or None for the
            mean colour (which becomes exactly zero after normalisation).
    """

    size: tuple[int, int]
    channel_order: Literal["bgr", "rgb"] = "bgr"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fill: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint or a manifest."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> InputSpec:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: a field is missing, unknown or out of range.
        """
        try:
            unknown = set(data) - {field.name for field in fields(InputSpec)}
            height, width = (int(v) for v in data["size"])
            mean = tuple(float(v) for v in data["mean"])
            std = tuple(float(v) for v in data["std"])
            order = str(data["channel_order"])
            fill = None if data.get("fill") is None else float(data["fill"])
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InputRefused(f"the input specification is not readable: {error}") from error
        if unknown:
            raise InputRefused(f"the input specification has unknown fields {sorted(unknown)}")
        if not all(np.isfinite((*mean, *std, fill or 0.0))):
            raise InputRefused("the input specification holds a number that is not finite")
        if not (0 < height <= 8192 and 0 < width <= 8192):
            raise InputRefused(f"the input size {height}x{width} is out of range 1..8192")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or order not in ("bgr", "rgb"):
            raise InputRefused("the input specification has a bad mean, std or channel order")
        return InputSpec(
            (height, width),
            "bgr" if order == "bgr" else "rgb",
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
            fill,
        )


@dataclass(frozen=True)
class View:
    """Where a picture landed on the network's canvas.

    ``canvas = image * scale + (left, top)``, in pixels; one scale for both axes.
    """

    scale: float
    left: float
    top: float
    image_size: tuple[int, int]
    canvas_size: tuple[int, int]

    def to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (..., 2) canvas coordinates x, y to picture coordinates."""
        shift = np.array([self.left, self.top], np.float32)
        return ((points - shift) / np.float32(self.scale)).astype(np.float32)

    def crop_to_image(self, dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample a (canvas_h, canvas_w[, c]) map onto the picture's pixel grid (bilinear)."""
        height, width = self.image_size
        top, left = round(self.top), round(self.left)
        inner_h, inner_w = inner_size(self.image_size, self.scale)
        inner = dense[top : top + inner_h, left : left + inner_w]
        resized = cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)


@dataclass(frozen=True)
class Part:
    """A part of a picture, in its pixels.

    Attributes:
        image_size: height and width of the whole picture.
        top, left: where the part begins.
        height, width: of the part, at least one pixel each.
    """

    image_size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    def of(self, plane: NDArray[Any]) -> NDArray[Any]:
        """The same part of a (h, w, ...) array of the picture, as an array of its own."""
        rows = slice(self.top, self.top + self.height)
        return np.ascontiguousarray(plane[rows, self.left : self.left + self.width])


def inner_size(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of the scaled picture on the canvas, at least one pixel each."""
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def letterbox(image: NDArray[np.uint8], spec: InputSpec) -> tuple[NDArray[np.float32], View]:
    """Scale a BGR picture into the canvas without distortion, centred, and normalise it.

    Args:
        image: (height, width, 3) uint8, BGR.
        spec: canvas size and normalisation.

    Returns:
        (3, H, W) float32 input and the view that maps back.
    """
    canvas_h, canvas_w = spec.size
    height, width = image.shape[:2]
    scale = min(canvas_h / height, canvas_w / width)
    inner_h, inner_w = inner_size((height, width), scale)
    # Area averaging is the one filter that does not alias when a picture shrinks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    inner = cv2.resize(image, (inner_w, inner_h), interpolation=method)
    top, left = (canvas_h - inner_h) // 2, (canvas_w - inner_w) // 2
    view = View(scale, float(left), float(top), (height, width), (canvas_h, canvas_w))
    mean = np.array(spec.mean, np.float32)
    if spec.channel_order == "rgb":
        inner = inner[:, :, ::-1]
    border = mean if spec.fill is None else np.full(3, spec.fill, np.float32)
    canvas = np.empty((canvas_h, canvas_w, 3), np.float32)
    canvas[:] = border
    canvas[top : top + inner_h, left : left + inner_w] = inner
    canvas -= mean
    canvas /= np.array(spec.std, np.float32)
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)), view
