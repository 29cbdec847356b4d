"""Detection at several scales with flips and box voting: how MOS reports WIDER FACE (section 6).

This is a protocol for accuracy on paper, ten passes per picture; nothing that a device would do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.measure.accuracy import Run
from edgemtl.tasks.anchors import decode_boxes, iou_matrix, priors
from edgemtl.tasks.detection import SCORE_FLOOR, Detection, softmax_face_score

#: (h, w, 3) BGR picture of any size -> (n, 5) float32 x1 y1 x2 y2 score in its pixels, all
#: candidates, not thinned by non-maximum suppression: voting lives on the overlapping ones
Detect = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BASE_SHORT_SIDE = 800
BASE_LONG_SIDE = 1200
#: relative to the base scale
SCALES = tuple(side / BASE_SHORT_SIDE for side in (500, 800, 1100, 1400, 1700))
VOTING_IOU = 0.3
TOP_KEPT = 750
#: the networks' coarsest stride: canvases are multiples of it
STRIDE = 32


def base_scale(height: int, width: int) -> float:
    """Factor that makes the short side 800 pixels, or the long side 1200 if that comes first."""
    return min(BASE_SHORT_SIDE / min(height, width), BASE_LONG_SIDE / max(height, width))


def detect_multiscale(
    detect: Detect,
    image: NDArray[np.uint8],
    scales: Sequence[float] = SCALES,
    flip: bool = True,
) -> NDArray[np.float32]:
    """Detect at every scale, plain and mirrored, and let all candidates vote.

    Args:
        detect: one pass.
        image: (h, w, 3) BGR.
        scales: factors on :func:`base_scale`.
        flip: whether each scale is also run on the mirrored picture.

    Returns:
        (n, 5) float32 x1 y1 x2 y2 score in pixels of ``image``, best first, at most 750.
    """
    height, width = image.shape[:2]
    pooled = [np.zeros((0, 5), np.float32)]
    for relative in scales:
        factor = base_scale(height, width) * relative
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
        # The rounded sizes, not the factor, tell how far each axis was really stretched.
        back = np.array([width / size[0], height / size[1]] * 2 + [1], np.float32)
        pooled.append(detect(scaled) * back)
        if flip:
            found = detect(np.ascontiguousarray(scaled[:, ::-1])) * back
            # Boxes are edges, not pixel indices: the mirror image of edge x is w - x, without the
            # one pixel that the published script takes off.
            found[:, [0, 2]] = width - found[:, [2, 0]]
            pooled.append(found)
    return vote(np.concatenate(pooled))


def vote(
    candidates: NDArray[np.float32], iou: float = VOTING_IOU, top: int = TOP_KEPT
) -> NDArray[np.float32]:
    """Merge overlapping candidates into one box each.

    The best candidate left gathers all that overlap it by ``iou`` or more into a cluster; the
    cluster's box is their mean weighted by score, its score their highest. A candidate that nobody
    joins is discarded: with ten passes, what only one of them saw is noise.

    Args:
        candidates: (n, 5) x1 y1 x2 y2 score.

    Returns:
        (m, 5) float32, best first, at most ``top``.
    """
    left = candidates[np.argsort(-candidates[:, 4], kind="stable")].astype(np.float32)
    voted: list[NDArray[np.float32]] = []
    # Clusters come out in descending score, so the first ``top`` of them are the best ones.
    while len(left) and len(voted) < top:
        together = iou_matrix(left[:1, :4], left[:, :4])[0] >= iou
        together[0] = True  # a box without area overlaps nothing, itself included
        cluster, left = left[together], left[~together]
        if len(cluster) < 2:
            continue
        weight = np.maximum(cluster[:, 4:5].astype(np.float64), 1e-12)
        box = (cluster[:, :4] * weight).sum(axis=0) / weight.sum()
        voted.append(np.append(box, cluster[0, 4]).astype(np.float32))
    return np.stack(voted) if voted else np.zeros((0, 5), np.float32)


def network_detector(run: Run, task: Detection, spec: InputSpec) -> Detect:
    """One pass of a network that takes any canvas (a torch network does, an artefact does not).

    The picture keeps its scale and is padded at its right and bottom to a multiple of 32.
    """

    def detect(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = image.shape[:2]
        below, beside = -height % STRIDE, -width % STRIDE
        colour = spec.mean if spec.fill is None else (spec.fill,) * 3
        bgr = colour if spec.channel_order == "bgr" else colour[::-1]
        padded = cv2.copyMakeBorder(
            image, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=[round(v) for v in bgr]
        )
        size = (height + below, width + beside)
        canvas, _ = letterbox(np.asarray(padded, np.uint8), replace(spec, size=size))
        outputs = run(canvas[None])
        scores = softmax_face_score(outputs[task.outputs[0]][0])
        index = np.flatnonzero(scores > SCORE_FLOOR)
        grid = priors(task.anchors, size)[index]
        boxes = decode_boxes(outputs[task.outputs[1]][0][index], grid, task.anchors)
        return np.concatenate([boxes, scores[index, None]], axis=1)

    return detect
