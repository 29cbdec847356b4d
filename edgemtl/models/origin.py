"""Where a pruned checkpoint came from: the dense network's file and the hash of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgemtl.errors import InputRefused
from edgemtl.models.checkpoint import load

#: key of a checkpoint's ``meta``
DENSE = "dense"
_HASH_LENGTH = 64


@dataclass(frozen=True)
class Origin:
    """The dense network that a checkpoint was pruned from, once or several times.

    Attributes:
        file: its name, or a path below the folder that the command was run in.
        weights_sha256: of its weights (:func:`edgemtl.models.checkpoint.weights_hash`).
    """

    file: str
    weights_sha256: str

    def to_dict(self) -> dict[str, str]:
        """Plain data for ``meta``."""
        return {"file": self.file, "weights_sha256": self.weights_sha256}

    @staticmethod
    def from_meta(meta: Mapping[str, Any]) -> Origin | None:
        """Of a checkpoint's ``meta``, which anybody may have written; None where there is none."""
        found = meta.get(DENSE)
        if not isinstance(found, dict):
            return None
        file, digest = found.get("file"), found.get("weights_sha256")
        if not isinstance(file, str) or not isinstance(digest, str):
            return None
        return Origin(file, digest) if len(digest) == _HASH_LENGTH and file else None

    def candidates(self, model: Path) -> list[Path]:
        """Where the file may lie: beside the model, or where the name says, below this folder.

        A path that leaves the folder is not followed: the checkpoint may be a stranger's.
        """
        named = PurePosixPath(self.file)
        found = [model.parent / named.name]
        if not named.is_absolute() and ".." not in named.parts:
            found.append(Path(named))
        return [path for path in found if path.is_file()]


def recorded_name(model: Path) -> str:
    """What a record calls a file: its path where that lies below this folder, else its name."""
    inside = not model.is_absolute() and ".." not in model.parts
    return model.as_posix() if inside else model.name


def origin_of(model: Path) -> Origin | None:
    """The record of a checkpoint; None where it has none, or is no checkpoint of ours."""
    try:
        return Origin.from_meta(load(model).meta)
    except InputRefused:
        return None
