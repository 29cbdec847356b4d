"""Detections from raw outputs, as the product decodes them (``edgemtl.tasks.detection``).

Boxes are in pixels of the network's canvas. With the suppression inside the graph only the boxes it
kept are decoded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCORE_FLOOR, NMS_IOU = 0.02, 0.4
TOP_CANDIDATES, TOP_KEPT = 5000, 750
#: from here on a detection is shown
OPERATING_SCORE = 0.4
#: a detection of one run and one of another are the same from this overlap on
SAME_IOU = 0.9


class DetectionTask(NamedTuple):
    """What the manifest says of a detection task.

    Attributes:
        name: of the task.
        scores, boxes: names of its outputs, (1, N, 2) and (1, N, 4).
        strides, sizes, variances: of its anchors.
        kept: output that holds the indices kept, "" when the host suppresses.
    """

    name: str
    scores: str
    boxes: str
    strides: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    variances: tuple[float, float]
    kept: str = ""


class Found(NamedTuple):
    """Detections of one picture, best first.

    Attributes:
        boxes: (n, 4) x1 y1 x2 y2 in canvas pixels.
        scores: (n,) in 0..1.
        prior: (n,) index of the prior that each came from.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    prior: NDArray[np.int64]


def tasks_of(data: Mapping[str, Any]) -> list[DetectionTask]:
    """The detection tasks of a manifest."""
    kept = (data["artefact"].get("facts") or {}).get("suppressed") or {}
    found = []
    for entry in data.get("tasks", []):
        task = entry["task"]
        if task.get("kind") != "detection":
            continue
        anchors = task["options"]["anchors"]
        scores, boxes = (str(output["name"]) for output in entry["outputs"])
        found.append(
            DetectionTask(
                str(task["name"]),
                scores,
                boxes,
                tuple(int(stride) for stride in anchors["strides"]),
                tuple(tuple(int(side) for side in level) for level in anchors["sizes"]),
                (float(anchors["variances"][0]), float(anchors["variances"][1])),
                str(kept.get(task["name"], "")),
            )
        )
    return found


def priors(task: DetectionTask, height: int, width: int) -> NDArray[np.float32]:
    """(N, 3): centre x, centre y, side; ordered by level, row, column, size."""
    import numpy as np

    levels = []
    for stride, sizes in zip(task.strides, task.sizes):  # noqa: B905 - Python 3.8
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride,
            (np.arange(columns) + 0.5) * stride,
            np.asarray(sizes, np.float64),
            indexing="ij",
        )
        levels.append(np.stack([x, y, side], axis=-1).reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


def decode(
    task: DetectionTask, outputs: Mapping[str, NDArray[np.float32]], grid: NDArray[np.float32]
) -> Found:
    """Detections of the first picture of a batch."""
    import numpy as np

    logits, encoded = outputs[task.scores][0], outputs[task.boxes][0]
    difference = np.clip(logits[:, 0] - logits[:, 1], -60, 60)
    scores = np.asarray(1.0 / (1.0 + np.exp(difference)), np.float32)
    if task.kept:
        kept = outputs[task.kept].reshape(-1)
        index = kept[kept >= 0].astype(np.int64)
        return Found(_boxes(task, encoded[index], grid[index]), scores[index], index)
    index = np.flatnonzero(scores > SCORE_FLOOR)
    index = index[np.argsort(-scores[index], kind="stable")[:TOP_CANDIDATES]]
    boxes = _boxes(task, encoded[index], grid[index])
    real = np.isfinite(boxes).all(axis=1)
    boxes, index = boxes[real], index[real]
    rows = suppress(boxes)[:TOP_KEPT]
    return Found(boxes[rows], scores[index][rows], index[rows])


def _boxes(
    task: DetectionTask, encoded: NDArray[np.float32], grid: NDArray[np.float32]
) -> NDArray[np.float32]:
    import numpy as np

    side = grid[:, 2:3]
    centre = grid[:, :2] + encoded[:, :2] * task.variances[0] * side
    half = side * np.exp(np.clip(encoded[:, 2:] * task.variances[1], -10, 10)) / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def suppress(boxes: NDArray[np.float32]) -> list[int]:
    """Greedy non-maximum suppression of (n, 4) boxes, best first: the rows kept."""
    import numpy as np

    wide = boxes.astype(np.float64)
    area = np.prod(wide[:, 2:] - wide[:, :2], axis=1)
    left = np.arange(len(wide))
    rows: list[int] = []
    while len(left) and len(rows) < TOP_KEPT:
        best, left = left[0], left[1:]
        rows.append(int(best))
        overlap = _overlap(wide[best], area[best], wide[left], area[left])
        left = left[overlap <= NMS_IOU]
    return rows


def _overlap(box: Any, size: float, boxes: Any, sizes: Any) -> Any:
    import numpy as np

    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = np.prod(np.clip(sides, 0, None), axis=1)
    return inter / np.maximum(size + sizes - inter, 1e-12)


def agreement(expected: Found, found: Found) -> dict[str, Any]:
    """How many of the detections that are shown were found again, and how many are new.

    For the reader of the results: rounding may move one across the line, so it decides nothing.
    """
    import numpy as np

    wanted = expected.boxes[expected.scores >= OPERATING_SCORE].astype(np.float64)
    got = found.boxes[found.scores >= OPERATING_SCORE].astype(np.float64)
    again = 0
    for box in wanted:
        overlap = _overlap(
            box, np.prod(box[2:] - box[:2]), got, np.prod(got[:, 2:] - got[:, :2], axis=1)
        )
        again += bool(len(got)) and float(overlap.max()) >= SAME_IOU
    return {"expected": len(wanted), "found": len(got), "found_again": again}
