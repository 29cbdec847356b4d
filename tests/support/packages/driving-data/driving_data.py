"""A layout of labelled pictures: SPLIT/images with the angles of all of them in one JSON file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgemtl.data.images import ImageRefused, read_image
from edgemtl.data.open import DatasetFormat
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused


class DrivingFolder:
    """``SPLIT/steering.json`` is {picture: degrees}; the lower half of each picture is road."""

    def __init__(self, name: str, folder: Path, degrees: Sequence[tuple[str, float]]) -> None:
        self.name, self.folder, self.degrees = name, folder, tuple(degrees)
        self.problems: list[str] = []

    @staticmethod
    def open(root: Path, split: str | None) -> DrivingFolder:
        file = root / str(split) / "steering.json"
        try:
            told = {str(k): float(v) for k, v in json.loads(file.read_text("utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputRefused(f"no angles in it: {error}", where=str(file)) from error
        return DrivingFolder(f"{root.name}/{split}", file.parent, sorted(told.items()))

    def __len__(self) -> int:
        return len(self.degrees)

    def __iter__(self) -> Iterator[Sample]:
        for name, degrees in self.degrees:
            try:
                image = read_image(self.folder / "images" / name)
            except ImageRefused as error:
                self.problems.append(f"{name}: {error}")
                continue
            road = np.zeros(image.shape[:2], np.int64)
            road[: image.shape[0] // 2] = 1
            yield Sample(name, image, {"steering": degrees, "segmentation": road})

    def subset(self, indices: Sequence[int]) -> DrivingFolder:
        return DrivingFolder(self.name, self.folder, [self.degrees[i] for i in indices])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.degrees).encode())
        for name, _ in self.degrees:
            digest.update((self.folder / "images" / name).read_bytes())
        return digest.hexdigest()


def splits(root: Path) -> list[str | None]:
    """The splits that a folder has in this layout; none where it is of another one."""
    return [path.parent.name for path in sorted(root.glob("*/steering.json"))]


DRIVING = DatasetFormat(
    "driving", "SPLIT/images with SPLIT/steering.json", splits, DrivingFolder.open
)
