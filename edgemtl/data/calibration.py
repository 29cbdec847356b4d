"""The embedded calibration set: what the product uses where there is no data set.

It is rendered, and never quoted as accuracy on real pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgemtl.data.faces import FaceFolder
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError


def folder() -> Path:
    """Where the embedded sets lie: inside an installation, or beside the package in a checkout."""
    inside = Path(__file__).parent.parent / "_calib_data"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "calib_data"


def embedded(label_kinds: Iterable[str], split: str) -> Dataset:
    """The embedded set that carries these kinds of labels, ``train`` or ``val``.

    Raises:
        UsageError: no embedded set has such labels.
        InputRefused: the installation lacks the set, or there is no such split.
    """
    wanted = set(label_kinds)
    if wanted <= {"faces"}:
        faces = FaceFolder.open(folder() / "faces", split)
        faces.name = f"calib_data/faces/{split} (synthetic)"
        return faces
    raise UsageError(
        f"no embedded data set has labels for {', '.join(sorted(wanted))}",
        where="[data] root",
        hint='name a folder with labelled pictures: --data DIR, or root = "DIR" in the recipe',
    )
