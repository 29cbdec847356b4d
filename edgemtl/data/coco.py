"""Reader of COCO's JSON: boxes with classes, and key points.

``DIR/annotations/instances_SPLIT.json`` and ``DIR/annotations/person_keypoints_SPLIT.json``, one of
them or both, with the pictures in ``DIR/SPLIT`` or ``DIR/images/SPLIT``; or
``DIR/SPLIT/_annotations.coco.json`` with the pictures beside it. The labels are ``objects``
(:class:`edgemtl.data.objects.Objects`, classes by their names) and, where the file has them,
``keypoints`` (:class:`edgemtl.data.objects.Keypoints`). A picture without an annotation has empty
ones: nothing is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.faces import is_plain_name
from edgemtl.data.objects import AREA_OF_BOX, Keypoints, Objects
from edgemtl.data.tables import LabelledFile, LabelledFiles
from edgemtl.errors import InputRefused

BESIDE = "_annotations.coco.json"
PREFIXES = ("instances", "person_keypoints")
#: COCO's own instances_train2017.json has 448 MB
MOST_BYTES = 1 << 31
#: coordinates beyond are slips of the pen
FARTHEST_PX = 1e6


def coco_splits(root: Path) -> list[str | None]:
    """Splits that have an annotation file; None where the folder is a split itself."""
    if (root / BESIDE).is_file():
        return [None]
    found = {path.parent.name for path in root.glob(f"*/{BESIDE}")}
    for prefix in PREFIXES:
        files = (root / "annotations").glob(f"{prefix}_*.json")
        found |= {path.stem.removeprefix(f"{prefix}_") for path in files}
    return [*sorted(found)]


def open_coco(root: Path, split: str | None) -> LabelledFiles:
    """Open a split.

    Raises:
        InputRefused: the annotation file is not readable, or not COCO's.
    """
    folder = root if split is None else root / split
    if split is None:
        root, split = root.resolve().parent, root.resolve().name
    if (folder / BESIDE).is_file():
        files, images = [folder / BESIDE], folder
    else:
        named = (root / "annotations" / f"{prefix}_{split}.json" for prefix in PREFIXES)
        files = [path for path in named if path.is_file()]
        images = folder if folder.is_dir() else root / "images" / split
    labels: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for path in files:
        _read(path, labels, problems)
    entries = [
        LabelledFile(name, images / name, found)
        for name, found in sorted(labels.items())
        if is_plain_name(name, problems)
    ]
    if not entries:
        raise InputRefused("the annotation file names no picture", where=str(files[0]))
    return LabelledFiles(f"{root.name}/{split}", entries, problems, _as_labels)


def _read(path: Path, labels: dict[str, dict[str, Any]], problems: list[str]) -> None:
    """Add what a file says, as plain data, picture by picture.

    Raises:
        InputRefused: not readable, or not COCO's.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputRefused("the annotation file is larger than 2 GiB", where=str(path))
        data = json.loads(path.read_text("utf-8"))
        names = {row["id"]: str(row["file_name"]) for row in data["images"]}
        classes = {row["id"]: str(row["name"]) for row in data["categories"]}
        points = {row["id"]: len(row.get("keypoints", ())) for row in data["categories"]}
        annotations = list(data["annotations"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputRefused(
            f"this is not COCO's JSON: {type(error).__name__}: {error}",
            where=str(path),
            hint="it has 'images', 'annotations' and 'categories'",
        ) from error
    told_points = any(points.values())
    for name in names.values():
        own = labels.setdefault(name, {})
        own.setdefault("objects", [])
        if told_points:
            own.setdefault("keypoints", [])
    seen: set[str] = set()
    bad = 0
    for row in annotations:
        try:
            name, kind = names[row["image_id"]], classes[row["category_id"]]
            box = [float(value) for value in row["bbox"]]
            crowd = bool(row.get("iscrowd", 0))
            if len(box) != 4 or not all(abs(v) < FARTHEST_PX for v in box) or min(box[2:]) <= 0:
                raise ValueError
            if told_points and points[row["category_id"]] and "keypoints" in row:
                flat = [float(value) for value in row["keypoints"]]
                area = float(row.get("area", box[2] * box[3] * AREA_OF_BOX))
                right = len(flat) == 3 * points[row["category_id"]]
                if not (right and all(map(math.isfinite, flat)) and 0 < area < math.inf):
                    raise ValueError
                labels[name]["keypoints"].append([flat, area, max(box[2:])])
        except (KeyError, TypeError, ValueError, AttributeError):
            bad += 1
            continue
        # both files have the people: each is an object once
        if path.name.startswith(PREFIXES[0]) or not labels[name].get("instances"):
            labels[name]["objects"].append([kind, box, crowd])
            seen.add(name)
    if path.name.startswith(PREFIXES[0]):
        for name in names.values():
            labels[name]["instances"] = True
    if bad:
        problems.append(f"{path.name}: {bad} annotation(s) without a usable box, ignored")


def _as_labels(told: Mapping[str, Any]) -> dict[str, Any]:
    rows = told["objects"]
    boxes = _array([row[1] for row in rows], 4)
    boxes[:, 2:] += boxes[:, :2]
    crowd = np.array([row[2] for row in rows], bool)
    labels: dict[str, Any] = {"objects": Objects(boxes, tuple(row[0] for row in rows), crowd)}
    people = told.get("keypoints")
    if people:
        table = np.array([row[0] for row in people], np.float32).reshape(len(people), -1, 3)
        points = table[..., :2].copy()
        points[table[..., 2] <= 0] = np.nan
        areas, sides = (np.array([row[place] for row in people], np.float32) for place in (1, 2))
        labels["keypoints"] = Keypoints(points, areas, sides)
    return labels


def _array(rows: list[list[float]], width: int) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, width)
