"""The example that comes with the package: a checkpoint and a picture, to try the verbs with.

The page beside them says what the weights learned from, and on which terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from edgemtl.errors import StageFailed, UsageError
from edgemtl.files import write_atomically

#: what ``edgemtl examples`` writes, below ``examples/`` in a checkout; setup.py packs the same
FILES = ("mos_t.pt", "picture.jpg", "README.md")


@dataclass(frozen=True)
class Example:
    """A file of the example.

    Attributes:
        path: where it is now.
        size_bytes: of the file.
        written: False where it was there already, with the same content.
    """

    path: Path
    size_bytes: int
    written: bool


def source() -> Path:
    """Where the example lies: inside an installation, or beside the package in a checkout."""
    inside = Path(__file__).parents[1] / "_examples"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "examples"


def write_examples(folder: Path, overwrite: bool = False) -> list[Example]:
    """Write the example into a folder, which is made.

    Args:
        folder: for the files of :data:`FILES`.
        overwrite: replace a file of one of these names that has another content.

    Raises:
        UsageError: there is such a file already; nothing is written then.
        StageFailed: this installation lacks the example, or the place cannot be written.
    """
    contents = {folder / name: _content(source() / name) for name in FILES}
    same = {path for path, content in contents.items() if _is(path, content)}
    others = [path for path in contents if path not in same and path.exists()]
    if others and not overwrite:
        raise UsageError(
            "there is another file of this name",
            where=str(others[0]),
            hint="choose another folder with --output, or replace it with --force",
        )
    for path in contents.keys() - same:
        write_atomically(path, partial(_write, contents[path]))
    return [Example(path, len(content), path not in same) for path, content in contents.items()]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageFailed(
            f"this installation lacks the example: {error.strerror}",
            where=str(path),
            hint="install EdgeMTL again",
        ) from error


def _write(content: bytes, stream: IO[bytes]) -> None:
    stream.write(content)


def _is(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
