"""Readers of pictures whose labels stand in a table or in the names of their folders.

A table is ``DIR/SPLIT/labels.csv`` or ``labels.jsonl`` with its pictures in ``DIR/SPLIT/images`` or
``DIR/SPLIT``, or ``DIR/SPLIT.csv`` or ``DIR/SPLIT.jsonl`` with them in ``DIR/images`` or ``DIR``.
Its column (or key) ``file`` names the picture, ``group`` may say which pictures are alike, and
each other one is a kind of label of that name. An empty cell, or ``null``, is no label. A column
of a CSV file whose cells are all numbers is read as numbers, every other one as text; JSON lines
hold one object per line, whose values are what they are.

Maps in the folders of :mod:`edgemtl.data.dense` beside ``images`` are read too.

Image folders are ``DIR/SPLIT/CLASS/image``: the label ``class`` is the folder's name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from edgemtl.data.dense import IMAGE_SUFFIXES, DenseFolder, Layer
from edgemtl.data.faces import is_plain_name
from edgemtl.data.groups import read_groups
from edgemtl.data.images import ImageRefused, read_image
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused

FILE, GROUP = "file", "group"
SUFFIXES = (".csv", ".jsonl")
#: a table is read as a whole; a larger one is no table of pictures
MOST_BYTES = 1 << 29
#: lines that are named one by one; of more only the count is told
NAMED_PROBLEMS = 20
HINT = "expected a column 'file' and one column per label (CSV), or an object per line (JSON lines)"


@dataclass(frozen=True)
class LabelledFile:
    """One picture, not decoded yet.

    Attributes:
        name: unique in its data set.
        path: of the picture.
        labels: kind of label -> value, as it was read.
        maps: kind of label -> its file, for labels that are maps of the picture.
        group: what it shares with pictures that are alike; empty where nothing is known.
    """

    name: str
    path: Path
    labels: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, Path] = field(default_factory=dict)
    group: str = ""


class LabelledFiles:
    """Pictures with labels of any kind; decodes lazily, in the order of the entries.

    Args:
        name: what the data set is called.
        entries: the pictures.
        problems: what could not be used so far.
        read: the labels of an entry, as it was read -> as tasks take them.
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[LabelledFile],
        problems: Sequence[str] = (),
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.name = name
        self.entries = list(entries)
        self.problems = list(problems)
        self._read = read

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int) -> Sample | None:
        """Decode one picture; None (and a line in ``problems``) when that fails.

        A map that does not decode or does not fit the picture is named and left out.
        """
        entry = self.entries[index]
        try:
            image = read_image(entry.path)
        except ImageRefused as error:
            self.problems.append(f"{entry.name}: {error}")
            return None
        labels = dict(self._read(entry.labels))
        for layer in _layers(entry.maps):
            found = layer.read(entry.maps[layer.kind])
            if found is None or found.shape[:2] != image.shape[:2]:
                reason = "does not decode" if found is None else "has another size"
                self.problems.append(f"{entry.name}: its {layer.kind} label {reason}")
                continue
            labels[layer.kind] = found
        return Sample(entry.name, image, labels)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self.entries)):
            sample = self.load(index)
            if sample is not None:
                yield sample

    def subset(self, indices: Sequence[int]) -> LabelledFiles:
        """The pictures at these positions, in this order."""
        return LabelledFiles(self.name, [self.entries[i] for i in indices], (), self._read)

    def groups(self) -> tuple[str, ...]:
        """What each picture shares with those that are alike; its own name where none is known."""
        return tuple(entry.group or entry.name for entry in self.entries)

    def fingerprint(self) -> str:
        """SHA-256 over names, labels, and bytes of pictures and maps."""
        digest = hashlib.sha256()
        for entry in self.entries:
            told = json.dumps([entry.name, dict(entry.labels)], sort_keys=True)
            digest.update(told.encode("utf-8", "surrogatepass") + b"\0")
            for kind, path in [("image", entry.path), *sorted(entry.maps.items())]:
                digest.update(kind.encode() + b"\0")
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError:
                    digest.update(b"missing")
        return digest.hexdigest()


def _layers(maps: Mapping[str, Path]) -> list[Layer]:
    return [layer for layer in DenseFolder.layers if layer.kind in maps]


# --- tables ----------------------------------------------------------------------------------


def table_splits(root: Path) -> list[str | None]:
    """Splits of a folder that have a table; None where the folder is a split itself."""
    if _table_in(root) is not None:
        return [None]
    inside = [path.name for path in root.iterdir() if path.is_dir() and _table_in(path)]
    beside = [
        path.stem
        for path in root.iterdir()
        if path.suffix in SUFFIXES and path.stem != "labels" and _looks_like_table(path)
    ]
    return [*sorted({*inside, *beside})]


def open_table(root: Path, split: str | None) -> LabelledFiles:
    """Open a split with a table.

    Raises:
        InputRefused: the table is not readable, or names no picture.
    """
    folder = root if split is None else root / split
    inside = _table_in(folder)
    if split is None:
        root, split = root.resolve().parent, root.resolve().name
    if inside is None:
        beside = [root / f"{split}{suffix}" for suffix in SUFFIXES]
        table = next((path for path in beside if path.is_file()), beside[0])
        folder = root
    else:
        table = inside
    rows, problems = _read_table(table)
    images = folder / "images" if (folder / "images").is_dir() else folder
    groups = read_groups(table.parent) if inside is not None else {}
    entries = []
    for row in rows:
        name, group = str(row.pop(FILE)), row.pop(GROUP, None)
        if not is_plain_name(name, problems):
            continue
        maps = {
            layer.kind: folder / layer.folder / f"{Path(name).stem}.png"
            for layer in DenseFolder.layers
            if (folder / layer.folder / f"{Path(name).stem}.png").is_file()
        }
        alike = str(group) if group is not None else groups.get(name, "")
        entries.append(LabelledFile(name, images / name, row, maps, alike))
    if not entries:
        raise InputRefused("the table names no picture", where=str(table), hint=HINT)
    return LabelledFiles(f"{root.name}/{split}", entries, _some(problems))


def _table_in(folder: Path) -> Path | None:
    found = (folder / f"labels{suffix}" for suffix in SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def _looks_like_table(path: Path) -> bool:
    """Whether a file's first line has a column, or a key, ``file``."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            first = stream.readline(1 << 16)
        if path.suffix == ".csv":
            return FILE in next(csv.reader([first]), [])
        told = json.loads(first)
    except (OSError, ValueError, RecursionError, csv.Error):
        return False
    return isinstance(told, dict) and FILE in told


def _read_table(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows without what is empty, and one sentence per row that could not be used."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputRefused("the table is larger than 512 MiB", where=str(path))
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"the table cannot be read: {error}", where=str(path)) from error
    return _read_csv(path, text) if path.suffix == ".csv" else _read_lines(path, text)


def _read_csv(path: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    problems: list[str] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if FILE not in (reader.fieldnames or ()):
            raise InputRefused("the table has no column 'file'", where=str(path), hint=HINT)
        rows = []
        for cells in reader:
            if None in cells or None in cells.values() or not cells[FILE].strip():
                number = reader.line_num
                problems.append(f"{path.name}:{number}: not as many cells as columns, ignored")
                continue
            rows.append({name: cell.strip() for name, cell in cells.items() if cell.strip()})
    except csv.Error as error:
        raise InputRefused(f"the table is no CSV: {error}", where=str(path), hint=HINT) from error
    for name in reader.fieldnames or ():
        if name in (FILE, GROUP):
            continue
        cells_of = [row for row in rows if name in row]
        numbers = [_number(row[name]) for row in cells_of]
        if None not in numbers:
            for row, value in zip(cells_of, numbers, strict=True):
                row[name] = value
    return rows, problems


def _number(cell: str) -> float | None:
    """A cell as a finite number; None where it is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) < float("inf") and "_" not in cell else None


def _read_lines(path: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    rows, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or not isinstance(told.get(FILE), str):
            problems.append(f"{path.name}:{number}: no object with a 'file', ignored")
            continue
        rows.append({name: value for name, value in told.items() if value is not None})
    return rows, problems


def _some(problems: list[str]) -> list[str]:
    more = len(problems) - NAMED_PROBLEMS
    return problems if more <= 0 else [*problems[:NAMED_PROBLEMS], f"{more} more such problem(s)"]


# --- image folders ---------------------------------------------------------------------------


def image_folder_splits(root: Path) -> list[str | None]:
    """Splits with two or more folders of pictures each, named by their classes."""
    return [
        path.name
        for path in sorted(root.iterdir())
        if path.is_dir() and not (path / "images").is_dir() and len(_class_folders(path)) > 1
    ]


def open_image_folders(root: Path, split: str) -> LabelledFiles:
    """Open ``root/split/CLASS/image``: a picture of each class in turn.

    So the first few pictures, all that calibration and parity look at, are not of one class.

    Raises:
        InputRefused: its ``groups.json`` is not readable.
    """
    groups = read_groups(root / split)
    columns = []
    for folder in _class_folders(root / split):
        images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        columns.append([_of_class(path, groups) for path in images])
    entries = [one for row in zip_longest(*columns) for one in row if one is not None]
    return LabelledFiles(f"{root.name}/{split}", entries)


def _of_class(path: Path, groups: Mapping[str, str]) -> LabelledFile:
    label = path.parent.name
    name = f"{label}/{path.name}"
    return LabelledFile(name, path, {"class": label}, group=groups.get(name, ""))


def _class_folders(split: Path) -> list[Path]:
    return [
        folder
        for folder in sorted(split.iterdir())
        if folder.is_dir() and any(one.suffix.lower() in IMAGE_SUFFIXES for one in folder.iterdir())
    ]
