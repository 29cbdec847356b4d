"""Readers of data sets with several dense labels: NYUD-v2 and PASCAL-Context as multi-task
research lays them out, and people_parts and indoor_rgbd with the labels that derive from theirs.

Published layouts (M3ViT and its predecessors):

- NYUD-v2: ``gt_sets/SPLIT.txt`` lists names; ``images/N.jpg``, ``segmentation/N.png`` (0 not
  labelled, 1 to 40); NumPy files ``depth/N.npy`` (metres), ``normals/N.npy``, ``edge/N.npy``.
- PASCAL-Context: ``ImageSets/Context/SPLIT.txt``; ``JPEGImages/N.jpg``, ``semseg/VOC12/N.png`` or
  ``semseg/pascal-context/N.png``, ``human_parts/N.mat`` as PASCAL-Part has them or ``.png`` (0 to
  6), ``sal_distill/N.png``, ``normals_distill/N.png``, and for edges the label maps
  ``pascal-context/trainval/N.mat``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.dense import IGNORED_BYTE, DenseFolder, DenseImage, Layer
from edgemtl.data.derive import Camera, boundaries, foreground, normals_of_depth
from edgemtl.data.images import ImageRefused, decode_image, read_image
from edgemtl.data.pascal_mat import read_human_parts, read_label_map_edges
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused

#: focal length of indoor_rgbd's camera relative to the width of its pictures (292.5 at 320)
INDOOR_FOCAL = 292.5 / 320
#: pictures of indoor_rgbd in a row that count as one stretch: a picture has little in common with
#: the one as many later (mean correlation of 20 x 15 thumbnails 0.18, of neighbours 0.98)
STRETCH = 32
#: shorter than this a stored vector means "not labelled" (8 bits cannot store zero exactly)
SHORTEST = 0.1


def read_indexed(path: Path) -> NDArray[np.int64] | None:
    """(h, w) int64 of an 8-bit grey or palette PNG, 255 becoming -1; None when it is neither."""
    try:
        image = decode_image(path, cv2.IMREAD_UNCHANGED)
    except ImageRefused:
        return None
    if image.dtype != np.uint8:
        return None
    if image.ndim == 3:  # the decoder resolves palettes; classes are the positions in them
        palette = _palette(path.read_bytes())
        if palette is None:
            return None
        codes = image[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
        known = palette[:, ::-1].astype(np.int64) @ np.array([1, 256, 65536])
        unique, first = np.unique(known, return_index=True)
        place = np.minimum(np.searchsorted(unique, codes), len(unique) - 1)
        if not np.array_equal(unique[place], codes):
            return None
        image = first[place]
    classes = image.astype(np.int64)
    return np.where(classes == IGNORED_BYTE, -1, classes)


def _palette(data: bytes) -> NDArray[np.uint8] | None:
    """(n, 3) uint8 RGB of a palette PNG, None for other files."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] != b"\x03":
        return None
    position = 8
    while position + 8 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        if data[position + 4 : position + 8] == b"PLTE":
            entries = np.frombuffer(data[position + 8 : position + 8 + length], np.uint8)
            return entries.reshape(-1, 3) if entries.size == length and length % 3 == 0 else None
        position += length + 12
    return None


def _from_one(path: Path) -> NDArray[np.int64] | None:
    """Classes stored as 1, 2, ... with 0 for "not labelled"."""
    stored = read_indexed(path)
    return None if stored is None else np.where(stored > 0, stored - 1, -1)


def _read_salient(path: Path) -> NDArray[np.int64] | None:
    try:
        return (decode_image(path, cv2.IMREAD_GRAYSCALE) > 127).astype(np.int64)
    except ImageRefused:
        return None


def _read_parts(path: Path) -> NDArray[np.int64] | None:
    return read_human_parts(path) if path.suffix == ".mat" else read_indexed(path)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    kept = np.where(length >= SHORTEST, length, np.nan)
    return np.asarray(vectors / kept, np.float32)


def _read_normal_image(path: Path) -> NDArray[np.float32] | None:
    try:
        image = read_image(path)
    except ImageRefused:
        return None
    return _unit(image[..., ::-1].astype(np.float32) / 127.5 - 1)


def _read_array(path: Path, axes: int) -> NDArray[np.float32] | None:
    try:
        array = np.load(path, allow_pickle=False)
        return np.asarray(array, np.float32) if array.ndim == axes else None
    except (OSError, ValueError, EOFError):
        return None


def _read_depth_array(path: Path) -> NDArray[np.float32] | None:
    depth = _read_array(path, 2)
    return None if depth is None else np.where(depth > 0, depth, np.float32(np.nan))


def _read_normal_array(path: Path) -> NDArray[np.float32] | None:
    vectors = _read_array(path, 3)
    return None if vectors is None or vectors.shape[2] != 3 else _unit(vectors)


def _read_edge_array(path: Path) -> NDArray[np.int64] | None:
    edges = _read_array(path, 2)
    return None if edges is None else (edges > 0.5).astype(np.int64)


#: people_parts' pieces of clothing by the part of the body they cover; the rest is "accessories"
_COVERS = {
    "background": "null",
    "hair": "hair",
    "skin": "skin",
    "upper body": "blazer blouse bra cape cardigan coat hoodie jacket jumper shirt sweater "
    "sweatshirt t-shirt top vest",
    "whole body": "bodysuit dress intimate romper suit swimwear",
    "legs": "jeans leggings panties pants shorts skirt socks stockings tights",
    "feet": "boots clogs flats heels loafers pumps sandals shoes sneakers wedges",
}
#: names of the parts, in class order
BODY_PARTS = (*_COVERS, "accessories")


def body_parts(classes: NDArray[np.integer[Any]], names: tuple[str, ...]) -> NDArray[np.int64]:
    """(h, w) pieces of clothing -> one of the eight :data:`BODY_PARTS`; -1 where ignored.

    The 59 classes are too rare for a mean over classes to say much: nearly half of them are in
    fewer than one of twenty pictures.
    """
    part_of = {
        piece: part for part, pieces in enumerate(_COVERS.values()) for piece in pieces.split()
    }
    table = np.array([part_of.get(name, len(_COVERS)) for name in names] + [-1], np.int64)
    return table[np.where(classes < 0, -1, classes)]


class ListedFolder(DenseFolder):
    """A layout in which a text file per split lists the pictures' names."""

    lists = ""
    images = ""
    #: kind of label -> its possible files, relative to the root, ``{}`` standing for the name
    files: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - set once per subclass, never changed

    @classmethod
    def splits(cls, root: Path) -> list[str | None]:
        """Names of the splits that are listed there."""
        if not (root / cls.images).is_dir():
            return []
        return [path.stem for path in sorted((root / cls.lists).glob("*.txt"))]

    @classmethod
    def open(cls, root: Path, split: str) -> ListedFolder:
        """Open a split.

        Raises:
            InputRefused: the list is not there, empty, or names something outside the folder.
        """
        listed = root / cls.lists / f"{split}.txt"
        try:
            names = [line.strip() for line in listed.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputRefused("the list of pictures cannot be read", where=str(listed)) from error
        names = [name for name in names if name]
        if not names:
            raise InputRefused("the list of pictures is empty", where=str(listed))
        odd = [name for name in names if Path(name).name != name]
        if odd:
            raise InputRefused(f"'{odd[0][:60]}' is not the name of a picture", where=str(listed))
        entries = []
        for name in names:
            labels = {}
            for kind, places in cls.files.items():
                found = [root / p.format(name) for p in places if (root / p.format(name)).is_file()]
                if found:
                    labels[kind] = found[0]
            path = root / cls.images / f"{name}.jpg"
            entries.append(DenseImage(path.name, path, labels))
        return cls(f"{root.name}/{split}", entries)


class NyudV2(ListedFolder):
    """NYUD-v2: 40 classes, depth, normals, edges."""

    lists, images = "gt_sets", "images"
    files = {  # noqa: RUF012
        "segmentation": ("segmentation/{}.png",),
        "depth": ("depth/{}.npy",),
        "normals": ("normals/{}.npy",),
        "edges": ("edge/{}.npy",),
    }
    layers = (
        Layer("segmentation", "segmentation", _from_one),
        Layer("depth", "depth", _read_depth_array),
        Layer("normals", "normals", _read_normal_array),
        Layer("edges", "edge", _read_edge_array),
    )


class PascalContext(ListedFolder):
    """PASCAL-Context: 21 classes, body parts, saliency, normals, edges."""

    lists, images = "ImageSets/Context", "JPEGImages"
    files = {  # noqa: RUF012
        "segmentation": ("semseg/VOC12/{}.png", "semseg/pascal-context/{}.png"),
        "parts": ("human_parts/{}.png", "human_parts/{}.mat"),
        "saliency": ("sal_distill/{}.png",),
        "normals": ("normals_distill/{}.png",),
        "edges": ("pascal-context/trainval/{}.mat",),
    }
    layers = (
        Layer("segmentation", "semseg", read_indexed),
        Layer("parts", "human_parts", _read_parts),
        Layer("saliency", "sal_distill", _read_salient),
        Layer("normals", "normals_distill", _read_normal_image),
        Layer("edges", "pascal-context", read_label_map_edges),
    )


class PeopleParts(DenseFolder):
    """people_parts: saliency is the person, edges lie between the classes, parts group them."""

    def load(self, index: int) -> Sample | None:
        """As :meth:`DenseFolder.load`, with the labels that derive from the classes."""
        sample = super().load(index)
        if sample is None or "segmentation" not in sample.labels:
            return sample
        classes = sample.labels["segmentation"]
        derived = {
            "parts": body_parts(classes, self.classes),
            "saliency": foreground(classes),
            "edges": boundaries(classes),
        }
        return Sample(sample.name, sample.image, {**sample.labels, **derived})


class IndoorRgbd(DenseFolder):
    """indoor_rgbd, frames of a video: normals derive from depth and the known camera."""

    @classmethod
    def alike(cls, names: Sequence[str]) -> dict[str, str]:
        """Stretches of the video."""
        return {name: f"frames {at // STRETCH}" for at, name in enumerate(names)}

    def load(self, index: int) -> Sample | None:
        """As :meth:`DenseFolder.load`, with normals."""
        sample = super().load(index)
        if sample is None or "depth" not in sample.labels:
            return sample
        depth = sample.labels["depth"]
        height, width = depth.shape
        camera = Camera(INDOOR_FOCAL * width, width / 2, height / 2)
        derived = {"normals": normals_of_depth(depth, camera)}
        return Sample(sample.name, sample.image, {**sample.labels, **derived})
