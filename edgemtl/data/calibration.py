"""The embedded calibration sets: what the product uses where there is no data set.

They are rendered, and never quoted as accuracy on real pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from edgemtl.data.dense import DenseFolder, read_classes
from edgemtl.data.faces import FaceFolder
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError


class Rooms(DenseFolder):
    """The embedded rooms without their classes."""

    layers = tuple(layer for layer in DenseFolder.layers if layer.read is not read_classes)


def folder() -> Path:
    """Where the embedded sets lie: inside an installation, or beside the package in a checkout."""
    inside = Path(__file__).parent.parent / "_calib_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "calib_data"


def embedded(label_kinds: Iterable[str], split: str, maps: Collection[str] = ()) -> Dataset:
    """The embedded set that carries these kinds of labels, ``train`` or ``val``.

    For dense tasks it is the rooms: a network that also parses people runs on rooms too, and what
    has no labels there is told as not measured. That goes for classes as well: class 3 of the rooms
    is not class 3 of another network (``--data calib_data/rooms`` reads them).

    Args:
        label_kinds: of all tasks.
        split: ``train`` or ``val``.
        maps: those that are maps of the image (``Task.label_is_map``).

    Raises:
        UsageError: no embedded set has such labels.
        InputRefused: the installation lacks the set, or there is no such split.
    """
    wanted = set(label_kinds)
    if wanted <= set(FaceFolder.kinds):
        faces = FaceFolder.open(folder() / "faces", split)
        faces.name = f"calib_data/faces/{split} (synthetic)"
        return faces
    if wanted and wanted <= {layer.kind for layer in Rooms.layers}.union(maps):
        rooms = Rooms.open(folder() / "rooms", split)
        rooms.name = f"calib_data/rooms/{split} (synthetic)"
        return rooms
    raise UsageError(
        f"no embedded data set has labels for {', '.join(sorted(wanted))}",
        where="[data] root",
        hint='name a folder with labelled pictures: --data DIR, or root = "DIR" in the recipe',
    )
