"""Readers of folders with dense labels: one label picture beside each picture.

``DIR/SPLIT/images`` holds the pictures; beside it, under the picture's name with ``.png``, lie
``labels`` (one byte per pixel: the class, 255 for ignored; class names in ``DIR/classes.json``),
``depth_mm`` (16 bit: depth in millimetres, 0 for missing), ``normals`` (three times 16 bit, red x,
green y, blue z: -1 is 0 and 1 is 65535), ``edges`` and ``saliency`` (one byte: 0, 1, 255 for
ignored), any of them; ``groups.json`` there may say which pictures are alike. The layouts of
people_parts, indoor_rgbd and calib_data/rooms; other layouts are subclasses with another
:attr:`DenseFolder.layers`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.groups import read_groups
from edgemtl.data.images import ImageRefused, decode_image, read_image
from edgemtl.data.preprocess import View, inner_size
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused

#: value of an unlabelled pixel in label files of one byte per pixel
IGNORED_BYTE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_classes(path: Path) -> NDArray[np.int64] | None:
    """(h, w) int64 class per pixel, -1 ignored; None when it is no 8-bit one-channel picture."""
    label = _read_plane(path)
    if label is None or label.dtype != np.uint8:
        return None
    classes = label.astype(np.int64)
    classes[label == IGNORED_BYTE] = -1
    return classes


def read_millimetres(path: Path) -> NDArray[np.float32] | None:
    """(h, w) float32 metres, NaN missing; None when it is no 16-bit one-channel picture."""
    label = _read_plane(path)
    if label is None or label.dtype != np.uint16:
        return None
    return np.where(label > 0, label.astype(np.float32) / 1000, np.float32(np.nan))


def read_vectors(path: Path) -> NDArray[np.float32] | None:
    """(h, w, 3) float32 unit vectors, NaN where too short; None for other pictures than these."""
    label = _read_label(path)
    if label is None or label.dtype != np.uint16 or label.shape[2:] != (3,):
        return None
    vectors = label[..., ::-1].astype(np.float64) / 32767.5 - 1
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0.5, length, np.nan), np.float32)


def read_yes_no(path: Path) -> NDArray[np.int64] | None:
    """(h, w) int64: 1, 0, -1 ignored; None when it is no 8-bit one-channel picture of these."""
    label = read_classes(path)
    return None if label is None or label.max(initial=0) > 1 else label


def _read_label(path: Path) -> NDArray[Any] | None:
    try:
        return decode_image(path, cv2.IMREAD_UNCHANGED)
    except ImageRefused:
        return None


def _read_plane(path: Path) -> NDArray[Any] | None:
    label = _read_label(path)
    return label if label is not None and label.ndim == 2 else None


@dataclass(frozen=True)
class Layer:
    """One kind of label in a layout.

    Attributes:
        kind: key in ``Sample.labels``.
        folder: its folder beside ``images``.
        read: label file -> (h, w, ...) array, or None when it is not such a file.
    """

    kind: str
    folder: str
    read: Callable[[Path], NDArray[Any] | None]


@dataclass(frozen=True)
class DenseImage:
    """One picture, not decoded yet, with its label files by kind.

    Attributes:
        group: what it shares with pictures that are alike; itself where nothing is known.
    """

    name: str
    path: Path
    labels: Mapping[str, Path]
    group: str = ""


class DenseFolder:
    """A split of a folder in the layout above; decodes lazily, sorted by name.

    Attributes:
        classes: names of the segmentation classes, empty where the data set names none.
        problems: one sentence per picture or label that could not be used so far.
    """

    layers: ClassVar[tuple[Layer, ...]] = (
        Layer("segmentation", "labels", read_classes),
        Layer("depth", "depth_mm", read_millimetres),
        Layer("normals", "normals", read_vectors),
        Layer("edges", "edges", read_yes_no),
        Layer("saliency", "saliency", read_yes_no),
    )

    def __init__(
        self,
        name: str,
        entries: Sequence[DenseImage],
        classes: Sequence[str] = (),
        problems: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.entries = list(entries)
        self.classes = tuple(classes)
        self.problems = list(problems)

    @classmethod
    def open(cls, root: Path, split: str) -> DenseFolder:
        """Open ``root/split``.

        Raises:
            InputRefused: the folder, its pictures or every kind of label is not there,
                ``classes.json`` is not a list of names, or ``groups.json`` not one by picture.
        """
        folder = root / split
        layout = ", ".join(layer.folder for layer in cls.layers)
        hint = f"expected DIR/SPLIT/images and beside it one or more of: {layout}"
        if not (folder / "images").is_dir():
            raise InputRefused("there is no such data folder", where=str(folder), hint=hint)
        layers = [layer for layer in cls.layers if (folder / layer.folder).is_dir()]
        if not layers:
            raise InputRefused("there are no labels", where=str(folder), hint=hint)
        images = sorted(
            path for path in (folder / "images").iterdir() if path.suffix in IMAGE_SUFFIXES
        )
        if not images:
            raise InputRefused("the folder holds no picture", where=str(folder / "images"))
        declared = read_groups(folder) or cls.alike([path.name for path in images])
        entries, problems = [], []
        for path in images:
            labels = {}
            for layer in layers:
                label = folder / layer.folder / f"{path.stem}.png"
                if label.is_file():
                    labels[layer.kind] = label
                else:
                    problems.append(f"{path.name}: no {layer.kind} label")
            group = declared.get(path.name, "")
            entries.append(DenseImage(path.name, path, labels, group))
        return cls(f"{root.name}/{split}", entries, _class_names(root), problems)

    @classmethod
    def alike(cls, names: Sequence[str]) -> dict[str, str]:
        """Name -> group of the pictures of a split, sorted, where the layout itself tells."""
        return {}

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, index: int) -> Sample | None:
        """Decode one picture; None (and a line in ``problems``) when that fails.

        A label that does not decode or does not fit the picture is named and left out.
        """
        entry = self.entries[index]
        try:
            image = read_image(entry.path)
        except ImageRefused as error:
            self.problems.append(f"{entry.name}: {error}")
            return None
        labels = {}
        for layer in self.layers:
            if layer.kind not in entry.labels:
                continue
            label = layer.read(entry.labels[layer.kind])
            if label is None or label.shape[:2] != image.shape[:2]:
                reason = "does not decode" if label is None else "has another size"
                self.problems.append(f"{entry.name}: its {layer.kind} label {reason}")
                continue
            labels[layer.kind] = self._checked(entry.name, layer.kind, label)
        return Sample(entry.name, image, labels)

    def _checked(self, name: str, kind: str, label: NDArray[Any]) -> NDArray[Any]:
        if kind != "segmentation" or not self.classes:
            return label
        unknown = label >= len(self.classes)
        if unknown.any():
            self.problems.append(
                f"{name}: {int(unknown.sum())} pixel(s) of classes that have no name, ignored"
            )
            label[unknown] = -1
        return label

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self.entries)):
            sample = self.load(index)
            if sample is not None:
                yield sample

    def subset(self, indices: Sequence[int]) -> DenseFolder:
        """The pictures at these positions, in this order."""
        return type(self)(self.name, [self.entries[i] for i in indices], self.classes)

    def groups(self) -> tuple[str, ...]:
        """What each picture shares with those that are alike; its own name where none is known."""
        return tuple(entry.group or entry.name for entry in self.entries)

    def fingerprint(self) -> str:
        """SHA-256 over class names, picture names, and bytes of pictures and labels."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for entry in self.entries:
            digest.update(entry.name.encode() + b"\0")
            for kind, path in [("image", entry.path), *sorted(entry.labels.items())]:
                digest.update(kind.encode() + b"\0")
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError:
                    digest.update(b"missing")
        return digest.hexdigest()


def _class_names(root: Path) -> tuple[str, ...]:
    path = root / "classes.json"
    if not path.exists():
        return ()
    try:
        names = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"the class names cannot be read: {error}", where=str(path)) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputRefused("the class names are not a list of names", where=str(path))
    return tuple(names)


def map_on_canvas(label: NDArray[Any], view: View) -> NDArray[Any]:
    """A label map, (h, w) or (h, w, c) of a picture, in pixels of the canvas the picture lies on.

    Each pixel takes the nearest labelled one, because a mean of two classes, or of the depths on
    both sides of an edge, is a value nobody labelled. The border is -1 in maps of integers and NaN
    in others; what hangs over the canvas is cut off.
    """
    missing = -1 if np.issubdtype(label.dtype, np.integer) else np.nan
    canvas = np.full((*view.canvas_size, *label.shape[2:]), missing, label.dtype)
    height, width = inner_size(view.image_size, view.scale)
    top, left = round(view.top), round(view.left)
    rows = _nearest(height, view.image_size[0])[max(-top, 0) : max(view.canvas_size[0] - top, 0)]
    columns = _nearest(width, view.image_size[1])[
        max(-left, 0) : max(view.canvas_size[1] - left, 0)
    ]
    top, left = max(top, 0), max(left, 0)
    canvas[top : top + len(rows), left : left + len(columns)] = label[rows[:, None], columns]
    return canvas


def _nearest(wanted: int, available: int) -> NDArray[np.intp]:
    """Index of the pixel under the centre of each of ``wanted`` pixels spread over as many."""
    centres = (np.arange(wanted) + 0.5) * available / wanted
    return np.minimum(centres.astype(np.intp), available - 1)
