"""Reader of WIDER FACE as its authors publish it.

``ROOT/wider_face_split/wider_face_SPLIT_bbx_gt.txt`` (or the file right in ``ROOT``) holds, per
picture, a line with its path, a line with the number of faces, and a row per face:
``x y w h blur expression illumination invalid occlusion pose``. The pictures lie in
``ROOT/WIDER_SPLIT/images/EVENT/NAME.jpg``. A picture without faces has the count 0 and, as a quirk
of the published files, one row of zeros all the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.faces import FARTHEST_PX, FaceFolder, LabelledImage, is_plain_name
from edgemtl.data.samples import Faces
from edgemtl.errors import InputRefused

COLUMNS = 10
INVALID_COLUMN = 7


def annotation_file(root: Path, split: str) -> Path | None:
    """The label file of a split, None when it is not there."""
    name = f"wider_face_{split}_bbx_gt.txt"
    candidates = (root / "wider_face_split" / name, root / name)
    return next((path for path in candidates if path.is_file()), None)


def open_wider(root: Path, split: str) -> FaceFolder:
    """Open a split. Names of samples are ``EVENT/NAME.jpg``; landmarks and pose are not labelled.

    Faces that the authors marked invalid, and boxes without area, are not used; ``problems`` says
    how many.

    Raises:
        InputRefused: the label file or the folder of pictures is not there or not readable.
    """
    labels = annotation_file(root, split)
    images = root / f"WIDER_{split}" / "images"
    if labels is None or not images.is_dir():
        missing = f"wider_face_{split}_bbx_gt.txt" if labels is None else f"WIDER_{split}/images"
        raise InputRefused(
            f"there is no {missing}",
            where=str(root),
            hint=f"expected wider_face_split/wider_face_{split}_bbx_gt.txt and "
            f"WIDER_{split}/images, as WIDER FACE is published",
        )
    entries, problems = parse_annotations(labels, images)
    return FaceFolder(f"{root.name}/{split}", entries, problems)


def parse_annotations(path: Path, images: Path) -> tuple[list[LabelledImage], list[str]]:
    """Parse a label file.

    Returns:
        The entries in file order, and a sentence per thing that could not be used.

    Raises:
        InputRefused: the file is not text, does not follow the layout, or holds no picture.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"the label file cannot be read: {error}", where=str(path)) from error
    entries: list[LabelledImage] = []
    problems: list[str] = []
    invalid = flat = 0
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if not name:
            at += 1
            continue
        rows, at = _rows(path, lines, at + 1)
        if not is_plain_name(name, problems):
            continue
        with_area = (rows[:, 2] > 0) & (rows[:, 3] > 0)
        marked = rows[:, INVALID_COLUMN] > 0
        flat += int((~with_area).sum())
        invalid += int((with_area & marked).sum())
        entries.append(LabelledImage(name, images / name, _faces(rows[with_area & ~marked])))
    if not entries:
        raise InputRefused("the label file names no picture", where=str(path))
    if flat:
        problems.append(f"{path.name}: {flat} box(es) without area, not used")
    if invalid:
        problems.append(f"{path.name}: {invalid} face(s) marked invalid, not used")
    return entries, problems


def _rows(path: Path, lines: list[str], at: int) -> tuple[NDArray[np.float32], int]:
    """The face rows whose count stands at line ``at``, and the line after them."""
    text = lines[at].strip() if at < len(lines) else ""
    if not text.isdecimal():
        raise InputRefused(
            f"line {at + 1} should be a number of faces, it is {text[:40]!r}", where=str(path)
        )
    count = int(text)
    at += 1
    rows = []
    for number in range(at, min(at + count, len(lines))):
        row = _row(lines[number])
        if row is None:
            raise InputRefused(
                f"line {number + 1} should be a face of {COLUMNS} numbers, it is "
                f"{lines[number][:40]!r}",
                where=str(path),
            )
        rows.append(row)
    if len(rows) < count:
        raise InputRefused(f"the file ends before the {count} faces it announced", where=str(path))
    at += count
    if count == 0 and at < len(lines):
        row = _row(lines[at])
        if row is not None and not any(row):
            at += 1
    return np.array(rows, np.float32).reshape(-1, COLUMNS), at


def _row(text: str) -> list[float] | None:
    try:
        row = [float(value) for value in text.split()]
    except ValueError:
        return None
    return row if len(row) == COLUMNS and all(abs(v) < FARTHEST_PX for v in row) else None


def _faces(rows: NDArray[np.float32]) -> Faces:
    boxes = rows[:, :4].copy()
    boxes[:, 2:] += boxes[:, :2]
    count = len(rows)
    return Faces(
        boxes,
        np.full((count, 5, 2), np.nan, np.float32),
        np.full((count, 3), np.nan, np.float32),
    )
