"""The WIDER FACE validation protocol: average precision on the easy, medium and hard subsets.

Written from the description of the protocol (WIDER FACE, Yang et al. 2016, and the evaluation kit
that its authors publish beside the four ground-truth files). What makes it differ from an ordinary
average precision:

- scores are first stretched to 0..1 over the whole set;
- every picture's ground truth lists *all* faces, and each subset names those that count; a
  detection that finds another face is neither right nor wrong;
- a detection that finds a counted face for the second time is wrong;
- widths and overlaps count pixels inclusively (a box of corners 0 and 9 is 10 pixels wide);
- precision and recall are taken at 1000 thresholds and integrated under the precision envelope;
- pictures without any face, or without any detection, add no false alarms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import InputRefused

SUBSETS = ("easy", "medium", "hard")
THRESHOLDS = 1000
FOUND_IOU = 0.5

Predictions = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class WiderImage:
    """Ground truth of one validation picture.

    Attributes:
        name: ``EVENT/NAME`` without suffix.
        boxes: (n, 4) float64, x y w h in pixels, all labelled faces.
        counted: subset -> (n,) whether each face counts there.
    """

    name: str
    boxes: NDArray[np.float64]
    counted: Mapping[str, NDArray[np.bool_]]


def load_ground_truth(folder: Path) -> list[WiderImage]:
    """Read ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat``.

    Raises:
        InputRefused: a file is missing, is no MATLAB file, or they do not belong together.
    """
    main = _load(folder / "wider_face_val.mat", "face_bbx_list", "file_list", "event_list")
    keep = {name: _load(folder / f"wider_{name}_val.mat", "gt_list") for name in SUBSETS}
    images = []
    try:
        for event in range(len(main["event_list"])):
            folder_name = str(main["event_list"][event][0][0])
            names = main["file_list"][event][0]
            for index in range(len(names)):
                boxes = np.asarray(main["face_bbx_list"][event][0][index][0], np.float64)
                boxes = boxes.reshape(-1, 4)
                counted = {}
                for subset, data in keep.items():
                    # Positions are counted from one, as MATLAB does.
                    positions = data["gt_list"][event][0][index][0].reshape(-1).astype(np.int64)
                    if len(positions) and positions.min() < 1:
                        raise ValueError(f"position {positions.min()} of a face")
                    mask = np.zeros(len(boxes), bool)
                    mask[positions - 1] = True
                    counted[subset] = mask
                name = f"{folder_name}/{names[index][0][0]}"
                images.append(WiderImage(name, boxes, counted))
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputRefused(
            f"the WIDER FACE ground truth has an unexpected shape: {error}", where=str(folder)
        ) from error
    return images


def _load(path: Path, *names: str) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(str(path), variable_names=list(names), appendmat=False)
    except FileNotFoundError:
        raise InputRefused(
            "there is no such ground-truth file",
            where=str(path),
            hint="the four .mat files of the WIDER FACE evaluation kit belong in one folder",
        ) from None
    except Exception as error:  # the parser meets broken bytes with exceptions of many kinds
        raise InputRefused(f"not a readable MATLAB file: {error}", where=str(path)) from error
    if missing := [name for name in names if name not in found]:
        raise InputRefused(f"it holds no '{missing[0]}'", where=str(path))
    return found


def wider_ap(ground_truth_dir: Path, predictions: Predictions) -> dict[str, float | None]:
    """Average precision per subset.

    Args:
        ground_truth_dir: folder of the four .mat files.
        predictions: ``EVENT/NAME`` (a suffix such as ``.jpg`` is dropped) -> (n, 5) x y w h score
            in pixels of the original picture; a picture that is absent has no detections.

    Returns:
        ``easy``, ``medium``, ``hard`` -> AP in 0..1.

    Raises:
        InputRefused: the ground truth cannot be read, or a prediction does not fit: unknown
            picture, wrong shape, not finite.
    """
    return average_precisions(load_ground_truth(ground_truth_dir), predictions)


def average_precisions(
    images: list[WiderImage], predictions: Predictions
) -> dict[str, float | None]:
    """:func:`wider_ap` on ground truth already read; None for a subset without any face."""
    known = {image.name for image in images}
    found = {_stem(name): _checked(name, table) for name, table in predictions.items()}
    if unknown := sorted(set(found) - known):
        raise InputRefused(
            f"{len(unknown)} prediction(s) are for pictures that the ground truth does not have",
            where=unknown[0],
            hint="names are EVENT/NAME as in the validation set",
        )
    found = _stretched(found)
    recalled = {subset: np.zeros(THRESHOLDS) for subset in SUBSETS}
    proposed = {subset: np.zeros(THRESHOLDS) for subset in SUBSETS}
    total = dict.fromkeys(SUBSETS, 0)
    for image in images:
        for subset in SUBSETS:
            total[subset] += int(image.counted[subset].sum())
        table = found.get(image.name)
        if table is None or len(table) == 0 or len(image.boxes) == 0:
            continue
        overlap = inclusive_iou(table[:, :4], image.boxes)
        # How many detections score at least each threshold; scores descend.
        reach = np.searchsorted(-table[:, 4], -_thresholds(), side="right")
        for subset in SUBSETS:
            hits, proposals = _outcomes(overlap, image.counted[subset])
            recalled[subset] += np.concatenate([[0], np.cumsum(hits)])[reach]
            proposed[subset] += np.concatenate([[0], np.cumsum(proposals)])[reach]
    return {
        subset: _area(recalled[subset], proposed[subset], total[subset]) if total[subset] else None
        for subset in SUBSETS
    }


def _thresholds() -> NDArray[np.float64]:
    # 0.999 down to 0: the last one takes every detection.
    return 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS


def _stem(name: str) -> str:
    # Names contain dots of their own seldom enough, but only a picture's suffix is dropped.
    head, dot, suffix = name.rpartition(".")
    return head if dot and suffix.lower() in ("jpg", "jpeg", "png") else name


def _checked(name: str, table: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    values = np.asarray(table, np.float64)
    if values.size == 0:
        return np.zeros((0, 5))
    if values.ndim != 2 or values.shape[1] != 5 or not np.isfinite(values).all():
        raise InputRefused("a prediction is not (n, 5) finite x y w h score", where=name)
    return values[np.argsort(-values[:, 4], kind="stable")]


def _stretched(tables: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Scores mapped so that the set's lowest is 0 and its highest 1 (all 1 when they are equal)."""
    scores = [table[:, 4] for table in tables.values() if len(table)]
    if not scores:
        return dict(tables)
    low, high = min(s.min() for s in scores), max(s.max() for s in scores)
    stretched = {}
    for name, table in tables.items():
        copy = table.copy()
        copy[:, 4] = (table[:, 4] - low) / (high - low) if high > low else 1.0
        stretched[name] = copy
    return stretched


def inclusive_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) x (m, 4) boxes x y w h -> (n, m) overlap in 0..1.

    Corners are x and x + w, and pixels are counted inclusively, so every side is one longer than
    its w or h: negligible for large faces, not for those of 5 pixels.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    inter = np.prod(np.clip(high - low + 1, 0, None), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] + 1, axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - inter
    return np.asarray(inter / np.maximum(union, 1e-12), np.float64)


def _outcomes(
    overlap: NDArray[np.float64], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per detection, best score first: whether it recalls a face, whether it counts at all."""
    best = overlap.argmax(axis=1)
    near = overlap[np.arange(len(best)), best] >= FOUND_IOU
    hits = np.zeros(len(best), bool)
    near_index = np.flatnonzero(near & counted[best])
    # The first to find each counted face recalls it; later ones stay in as false alarms.
    first = np.unique(best[near_index], return_index=True)[1]
    hits[near_index[first]] = True
    proposals = ~(near & ~counted[best])
    return hits, proposals


def _area(recalled: NDArray[np.float64], proposed: NDArray[np.float64], total: int) -> float:
    recall = np.concatenate([[0.0], recalled / total])
    # Where nothing is proposed nothing is recalled either, and the value carries no area.
    precision = np.concatenate([[0.0], recalled / np.maximum(proposed, 1)])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())
