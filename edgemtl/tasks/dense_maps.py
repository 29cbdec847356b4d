"""What the dense tasks share: output maps that may be coarser than the canvas.

A network may answer at a stride. Its map is then enlarged to the canvas bilinearly with pixel
centres aligned, in the loss and in the decoding alike, so that both see the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View


def stack_maps(
    labels: Sequence[Any], canvas_size: tuple[int, int], missing: np.generic
) -> NDArray[Any]:
    """Stack (H, W) maps that are already on the canvas to (B, H, W), of ``missing``'s type.

    ``None`` becomes a map full of ``missing``.

    Raises:
        ValueError: a map has another size than the canvas.
    """
    batch = np.full((len(labels), *canvas_size), missing, missing.dtype)
    for index, label in enumerate(labels):
        if label is None:
            continue
        if label.shape != canvas_size:
            raise ValueError(f"a label map is {label.shape}, the canvas {canvas_size}")
        batch[index] = label
    return batch


def upsampled(maps: Tensor, canvas_size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W); differentiable."""
    if (maps.shape[2], maps.shape[3]) == canvas_size:
        return maps
    return F.interpolate(maps, size=canvas_size, mode="bilinear", align_corners=False)


def to_canvas(plane: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """(h, w) -> (H, W) of the canvas; the same values as :func:`upsampled`."""
    if plane.shape == view.canvas_size:
        return plane
    height, width = view.canvas_size
    resized = cv2.resize(
        np.ascontiguousarray(plane, np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.float32)
