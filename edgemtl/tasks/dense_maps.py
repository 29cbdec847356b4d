"""What the dense tasks share: output maps that may be coarser than the canvas.

A network may answer at a stride. Its map is then enlarged to the canvas bilinearly with pixel
centres aligned, in the loss and in the decoding alike, so that both see the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View


def stack_maps(
    labels: Sequence[Any],
    canvas_size: tuple[int, int],
    missing: np.generic,
    values: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Stack (H, W) maps that are already on the canvas to (B, H, W), of ``missing``'s type.

    ``None`` becomes a map full of ``missing``. Maps of vectors are (H, W, *values).

    Raises:
        ValueError: a map has another size than the canvas.
    """
    size = (*canvas_size, *values)
    batch = np.full((len(labels), *size), missing, missing.dtype)
    for index, label in enumerate(labels):
        if label is None:
            continue
        if label.shape != size:
            raise ValueError(f"a label map is {label.shape}, the canvas {size}")
        batch[index] = label
    return batch


def mirrored_map(label: NDArray[Any]) -> NDArray[Any]:
    """A (h, w, ...) map with left and right exchanged."""
    return np.ascontiguousarray(label[:, ::-1])


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


def balanced_cross_entropy(logits: Tensor, targets: Tensor, positive_weight: Tensor) -> Tensor:
    """Mean binary cross-entropy over labelled pixels; 0 where there are none.

    Args:
        logits: (B, 1, h, w), enlarged to the canvas.
        targets: (B, H, W) integers: 1, 0, or -1 for pixels without a label.
        positive_weight: scalar in 0..1 on the pixels of 1; those of 0 get the rest.
    """
    labelled = targets >= 0
    if not bool(labelled.any()):
        return logits.sum() * 0.0
    x = upsampled(logits, (targets.shape[1], targets.shape[2]))[:, 0][labelled]
    truth = targets[labelled].to(x.dtype)
    weight = torch.where(truth > 0.5, positive_weight, 1 - positive_weight)
    return F.binary_cross_entropy_with_logits(x, truth, weight=weight)


def probabilities(logits: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """(h, w) logits -> probabilities on the picture's pixels."""
    plane = to_canvas(logits, view).astype(np.float64)
    # the clip only keeps exp from overflowing: float32 rounds both ends to 0 and 1 anyway
    share = 1 / (1 + np.exp(-np.clip(plane, -700, 700)))
    return view.crop_to_image(share.astype(np.float32))
