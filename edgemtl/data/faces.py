"""Reader of face label files: the 23-column layout that the MOS authors describe.

``DIR/SPLIT/images`` holds the pictures, ``DIR/SPLIT/label.txt`` a line ``# name`` per picture
followed by one line per face: ``x y w h``, five landmarks ``lx ly flag``, confidence, then
``pitch yaw roll`` in degrees. -1 marks an unlabelled landmark, ``nan`` an unlabelled angle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgemtl.data.groups import read_groups
from edgemtl.data.images import ImageRefused, read_image
from edgemtl.data.samples import Faces, Sample
from edgemtl.errors import InputRefused

COLUMNS = 23
#: bytes of a picture's name that every file system takes
LONGEST_NAME = 255
#: WIDER FACE's own label files stop here: box, landmarks, confidence, no pose
COLUMNS_WITHOUT_POSE = 20
#: a box farther out than this is a slip of the pen; float32 still tells pixels apart up to here
FARTHEST_PX = 1e6
#: the data set whose file names are people's; elsewhere IMG_0001 and IMG_0002 may be strangers
PEOPLE_BY_NAME = "faces_landmarks"


@dataclass(frozen=True)
class LabelledImage:
    """One entry of a label file, not decoded yet.

    Attributes:
        group: what it shares with pictures that are alike; itself where nothing is known.
    """

    name: str
    path: Path
    faces: Faces
    group: str = ""


def parse_label_file(path: Path, images: Path) -> tuple[list[LabelledImage], list[str]]:
    """Parse a label file.

    Returns:
        The entries in file order, and one sentence per line that could not be used. Boxes without
        area are dropped and named.

    Raises:
        InputRefused: the file is missing, not text, or holds no picture at all.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputRefused(
            "there is no label file",
            where=str(path),
            hint="expected DIR/SPLIT/label.txt beside DIR/SPLIT/images",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"the label file cannot be read: {error}", where=str(path)) from error
    entries: list[tuple[str, list[list[float]]]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("#"):
            entries.append((text[1:].strip(), []))
            continue
        if not text:
            continue
        row = _parse_row(text)
        if row is None or not entries:
            problems.append(f"{path.name}:{number}: not a face line, ignored")
            continue
        if not (row[2] > 0 and row[3] > 0 and all(abs(v) < FARTHEST_PX for v in row[:4])):
            problems.append(f"{path.name}:{number}: box without area, ignored")
            continue
        entries[-1][1].append(row)
    if not entries:
        raise InputRefused("the label file names no picture", where=str(path))
    return [
        LabelledImage(name, images / name, _faces(rows))
        for name, rows in entries
        if is_plain_name(name, problems)
    ], problems


def is_plain_name(name: str, problems: list[str]) -> bool:
    """Whether an untrusted name stays inside its folder; says so in ``problems`` when not."""
    parts = Path(name).parts
    plain = name.isprintable() and len(name.encode()) <= LONGEST_NAME
    good = bool(name) and plain and not Path(name).is_absolute() and ".." not in parts
    if not good:
        problems.append(f"{name[:40]!r}: not a file name inside the images folder, ignored")
    return good


def _parse_row(text: str) -> list[float] | None:
    try:
        row = [float(v) for v in text.split()]
    except ValueError:
        return None
    if len(row) in (4, COLUMNS_WITHOUT_POSE):
        row += [-1.0] * (COLUMNS_WITHOUT_POSE - len(row)) + [float("nan")] * 3
    return row if len(row) == COLUMNS else None


def _faces(rows: list[list[float]]) -> Faces:
    if not rows:
        return Faces.empty()
    table = np.array(rows, np.float32)
    boxes = table[:, :4].copy()
    boxes[:, 2:] += boxes[:, :2]
    points = table[:, 4:19].reshape(-1, 5, 3)
    landmarks = points[:, :, :2].copy()
    landmarks[(points == -1).all(axis=2)] = np.nan
    pitch_yaw_roll = table[:, 20:23]
    return Faces(boxes, landmarks, pitch_yaw_roll[:, [1, 0, 2]].copy())


def person(name: str) -> str:
    """Whom a picture of faces_landmarks shows: ``First_Last`` of ``First_Last_31.jpg``."""
    stem = Path(name).stem
    whom, _, number = stem.rpartition("_")
    return whom if whom and number.isdecimal() else stem


class FaceFolder:
    """A split of a folder in the layout above; decodes lazily, in file order.

    Attributes:
        kinds: of labels in it.
        problems: one sentence per picture or label line that could not be used so far.
    """

    kinds: ClassVar[tuple[str, ...]] = ("faces",)

    def __init__(
        self,
        name: str,
        entries: Sequence[LabelledImage],
        problems: list[str] | None = None,
    ) -> None:
        self.name = name
        self.entries = list(entries)
        self.problems = list(problems or [])

    @staticmethod
    def open(root: Path, split: str) -> FaceFolder:
        """Open ``root/split``.

        Raises:
            InputRefused: the folder, its label file or its pictures are not there, or its
                ``groups.json`` is not readable.
        """
        folder = root / split
        if not folder.is_dir():
            raise InputRefused(
                "there is no such data folder",
                where=str(folder),
                hint="expected DIR/SPLIT/images and DIR/SPLIT/label.txt",
            )
        entries, problems = parse_label_file(folder / "label.txt", folder / "images")
        declared = read_groups(folder)
        if not declared and root.resolve().name == PEOPLE_BY_NAME:
            declared = {entry.name: person(entry.name) for entry in entries}
        entries = [replace(entry, group=declared.get(entry.name, "")) for entry in entries]
        return FaceFolder(f"{root.name}/{split}", entries, problems)

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int) -> Sample | None:
        """Decode one picture; None (and a line in ``problems``) when that fails."""
        entry = self.entries[index]
        try:
            image = read_image(entry.path)
        except ImageRefused as error:
            self.problems.append(f"{entry.name}: {error}")
            return None
        faces = entry.faces
        if len(faces):
            height, width = image.shape[:2]
            inside = (
                (faces.boxes[:, 0] < width)
                & (faces.boxes[:, 1] < height)
                & (faces.boxes[:, 2] > 0)
                & (faces.boxes[:, 3] > 0)
            )
            if not inside.all():
                outside = int((~inside).sum())
                self.problems.append(f"{entry.name}: {outside} face(s) outside the picture")
                faces = faces.take(inside)
        return Sample(entry.name, image, {"faces": faces})

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self.entries)):
            sample = self.load(index)
            if sample is not None:
                yield sample

    def subset(self, indices: Sequence[int]) -> FaceFolder:
        """The pictures at these positions, in this order."""
        return FaceFolder(self.name, [self.entries[i] for i in indices])

    def groups(self) -> tuple[str, ...]:
        """Whom each picture shows, where that is known; its own name elsewhere."""
        return tuple(entry.group or entry.name for entry in self.entries)

    def fingerprint(self) -> str:
        """SHA-256 over names, labels and picture bytes."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(entry.name.encode() + b"\0")
            for part in (entry.faces.boxes, entry.faces.landmarks, entry.faces.pose):
                digest.update(np.ascontiguousarray(part).tobytes())
            try:
                digest.update(hashlib.sha256(entry.path.read_bytes()).digest())
            except OSError:
                digest.update(b"missing")
        return digest.hexdigest()
