"""One way in for every data set layout: ask each known format whether the folder is its own.

Third parties add theirs by the entry point ``edgemtl.datasets``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgemtl.data.aflw2000 import looks_like_aflw2000, open_aflw2000
from edgemtl.data.coco import coco_splits, open_coco
from edgemtl.data.dense import DenseFolder
from edgemtl.data.faces import FaceFolder
from edgemtl.data.published_dense import IndoorRgbd, NyudV2, PascalContext, PeopleParts
from edgemtl.data.samples import Dataset
from edgemtl.data.tables import (
    image_folder_splits,
    open_image_folders,
    open_table,
    table_splits,
)
from edgemtl.data.wider import annotation_file, open_wider
from edgemtl.errors import InputRefused, UsageError
from edgemtl.plugins import loaded, points, refused


@dataclass(frozen=True)
class DatasetFormat:
    """A layout of files.

    Attributes:
        name: what the user writes as ``format``.
        expects: the layout in a few words, for error messages; ``SPLIT`` stands for the split.
        splits: root -> names of the splits that this layout has there; ``None`` among them says
            that the folder can be opened without a split.
        open: root, split -> the data set; raises InputRefused.
    """

    name: str
    expects: str
    splits: Callable[[Path], list[str | None]]
    open: Callable[[Path, str | None], Dataset]

    @property
    def module(self) -> str:
        """Where its code is."""
        return getattr(self.open, "__module__", type(self.open).__module__)


_FORMATS: dict[str, DatasetFormat] = {}


def register_format(known: DatasetFormat) -> None:
    """Make a layout known; the first registered that recognises a folder opens it."""
    _FORMATS[known.name] = known


def formats() -> list[str]:
    """Names of the known formats, in the order in which they are asked."""
    return list(_known())


def _known() -> dict[str, DatasetFormat]:
    """Our formats, then those of other packages: installing one changes nothing for our layouts.

    Raises:
        UsageError: a package's format cannot be imported, or is none.
    """
    for point in points("edgemtl.datasets"):
        if point.name not in _FORMATS:
            known = loaded(point)
            if not isinstance(known, DatasetFormat) or known.name != point.name:
                raise refused(point)
            register_format(known)
    return _FORMATS


def open_dataset(root: Path, split: str | None = None, format: str = "auto") -> Dataset:
    """Open a labelled data set.

    Args:
        root: its folder.
        split: ``train``, ``val``, ...; None for a layout without splits, or when there is one only.
        format: a format's name, or ``auto`` to try them all.

    Raises:
        UsageError: unknown format.
        InputRefused: the folder or the split is not there, or no format recognises it; the message
            says what was looked for.
    """
    candidates = _candidates(format)
    if not root.is_dir():
        raise InputRefused("there is no such data folder", where=str(root))
    if split is not None and Path(split).name != split:
        raise UsageError(f"'{split}' is not the name of a split")
    for known in candidates:
        found = known.splits(root)
        if split in found:
            return known.open(root, split)
        if split is None and len(found) == 1:
            return known.open(root, found[0])
    for known in candidates:
        if found := known.splits(root):
            names = ", ".join(name for name in found if name is not None)
            hint = f"its splits: {names}" if names else "it has no splits, leave the split out"
            said = "there are several splits" if split is None else f"there is no split '{split}'"
            raise InputRefused(f"{said} ({known.name})", where=str(root), hint=hint)
    looked = "; ".join(f"{known.name}: {known.expects}" for known in candidates)
    raise InputRefused(
        "no known data set layout",
        where=str(root),
        hint=f"looked for {looked}".replace("SPLIT", split or "SPLIT"),
    )


def layout_of(root: Path, format: str = "auto") -> DatasetFormat | None:
    """The format that a folder would be opened with; None where none recognises it.

    Raises:
        UsageError: unknown format.
    """
    return next((known for known in _candidates(format) if known.splits(root)), None)


def _candidates(format: str) -> list[DatasetFormat]:
    formats = _FORMATS if format in _FORMATS else _known()
    if format != "auto" and format not in formats:
        raise UsageError(
            f"unknown data format '{format}'", hint=f"formats: auto, {', '.join(formats)}"
        )
    return list(formats.values()) if format == "auto" else [formats[format]]


def _face_splits(root: Path) -> list[str | None]:
    if (root / "label.txt").is_file():
        return [None]  # the user pointed at the split itself
    return [path.name for path in sorted(root.iterdir()) if (path / "label.txt").is_file()]


def _open_faces(root: Path, split: str | None) -> Dataset:
    if split is None:
        root, split = root.resolve().parent, root.resolve().name
    return FaceFolder.open(root, split)


def _dense_splits(root: Path) -> list[str | None]:
    layers = [layer.folder for layer in DenseFolder.layers]
    return [
        path.name
        for path in sorted(root.iterdir())
        if (path / "images").is_dir() and any((path / layer).is_dir() for layer in layers)
    ]


def _people_splits(root: Path) -> list[str | None]:
    try:
        names = json.loads((root / "classes.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    # only a data set whose first class says that it is background has a person to tell from it
    return _dense_splits(root) if isinstance(names, list) and names[:1] == ["null"] else []


def _indoor_splits(root: Path) -> list[str | None]:
    # the files do not say what camera took them, so only the data set by its name is known
    return _dense_splits(root) if root.resolve().name == "indoor_rgbd" else []


def _wider_splits(root: Path) -> list[str | None]:
    return [split for split in ("train", "val") if annotation_file(root, split) is not None]


def _one(split: str | None) -> str:
    assert split is not None  # these formats offer no None among their splits
    return split


register_format(
    DatasetFormat("faces", "SPLIT/label.txt and SPLIT/images", _face_splits, _open_faces)
)
register_format(
    DatasetFormat(
        "table",
        "SPLIT/labels.csv, SPLIT/labels.jsonl, SPLIT.csv or SPLIT.jsonl with a column 'file'",
        table_splits,
        open_table,
    )
)
register_format(
    DatasetFormat(
        "coco",
        "annotations/instances_SPLIT.json or person_keypoints_SPLIT.json, or "
        "SPLIT/_annotations.coco.json",
        coco_splits,
        open_coco,
    )
)
register_format(
    DatasetFormat(
        "people_parts",
        "as dense, with classes.json whose first class is 'null'",
        _people_splits,
        lambda root, split: PeopleParts.open(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "indoor_rgbd",
        "as dense, in a folder of this name",
        _indoor_splits,
        lambda root, split: IndoorRgbd.open(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "dense",
        "SPLIT/images with SPLIT/labels, SPLIT/depth_mm, normals, edges or saliency",
        _dense_splits,
        lambda root, split: DenseFolder.open(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "nyud",
        "gt_sets/SPLIT.txt and images",
        NyudV2.splits,
        lambda root, split: NyudV2.open(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "pascal_context",
        "ImageSets/Context/SPLIT.txt and JPEGImages",
        PascalContext.splits,
        lambda root, split: PascalContext.open(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "wider",
        "wider_face_split/wider_face_SPLIT_bbx_gt.txt and WIDER_SPLIT/images",
        _wider_splits,
        lambda root, split: open_wider(root, _one(split)),
    )
)
register_format(
    DatasetFormat(
        "aflw2000",
        "NAME.jpg with NAME.mat beside it",
        lambda root: [None] if looks_like_aflw2000(root) else [],
        lambda root, split: open_aflw2000(root),
    )
)
register_format(
    DatasetFormat(
        "image_folders",
        "SPLIT/CLASS/picture with two or more classes",
        image_folder_splits,
        lambda root, split: open_image_folders(root, _one(split)),
    )
)
