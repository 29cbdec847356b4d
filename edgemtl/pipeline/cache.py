"""Results of stages, kept by everything that can change them.

A result is a folder whose name is the hash of its stage's inputs. It is built aside and renamed
into place, so that it is there whole or not at all: a killed run leaves nothing half-made, and two
runs into one cache meet at a lock, where the second finds the first one's result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_dir

from edgemtl.errors import StageFailed
from edgemtl.files import output_error, sha256_file, write_json

RECORD = "stage.json"
#: results of stages, in the cache folder
STAGES = "stages"
SCRATCH = "scratch"
#: what runtimes' layers were measured to take (compress/latency/profiles.py)
LATENCY = "latency"
#: packages whose version can change a stage's result
TOOLS = ("torch", "onnx", "onnxslim", "onnxruntime", "openvino", "opencv-python-headless", "numpy")


def default_folder() -> Path:
    """``EDGEMTL_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("EDGEMTL_CACHE")
    return Path(chosen) if chosen else Path(user_cache_dir("edgemtl", appauthor=False))


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """SHA-256 over our own source, less what only shows results.

    A cache that outlives a change of the code would answer for code that is gone.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        # Of the report only the drawing of predictions makes what a stage keeps.
        if relative.parts[0] not in ("cli", "report") or relative.name == "drawing.py":
            digest.update(str(relative).encode())
            digest.update(path.read_bytes())
    for tool in TOOLS:
        try:
            digest.update(f"{tool}={version(tool)}".encode())
        except PackageNotFoundError:
            digest.update(f"{tool}=absent".encode())
    return digest.hexdigest()


def key_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain data; equal data give equal keys whatever the order of their fields."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A stage's result.

    Attributes:
        folder: its files.
        key: hash of its inputs.
        cached: whether it was there already.
    """

    folder: Path
    key: str
    cached: bool


class StageCache:
    """A folder of results.

    Args:
        folder: made when first used.
        fresh: ignore what is there and make every result anew (``--no-cache``).
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        self.fresh = fresh

    def result(self, stage: str, key: str, make: Callable[[Path], None]) -> Entry:
        """The result for a key, made by ``make(folder)`` if it is not there.

        Raises:
            StageFailed: the cache cannot be written.
        """
        final = self.folder / stage / key[:32]
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(final.parent / f"{key[:32]}.lock")
            with lock:
                if not self.fresh and is_whole(final):
                    return Entry(final, key, True)
                with self._scratch() as room:
                    result = room / "result"
                    result.mkdir()
                    make(result)
                    _seal(result, stage, key)
                    # A result that is replaced steps aside whole: another run may be reading it,
                    # and finds one or the other.
                    with suppress(FileNotFoundError):
                        final.rename(room / "replaced")
                    result.rename(final)
                return Entry(final, key, False)
        except OSError as error:
            raise self._error(error) from error

    def work_folder(self, stage: str, key: str) -> Path:
        """Where a long stage keeps what it needs to go on after a kill; it survives failures."""
        folder = self.folder / "work" / f"{stage}-{key[:32]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from error
        return folder

    def _error(self, error: OSError) -> StageFailed:
        place = Path(error.filename if isinstance(error.filename, str) else self.folder)
        problem = output_error(error, place)
        if self.folder in (place, *place.parents) or place in self.folder.parents:
            problem.hint = "free space, or name another cache folder in EDGEMTL_CACHE"
        return problem

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        room = self.folder / SCRATCH
        room.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=room))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed processes left behind."""
        import psutil

        for left in (self.folder / SCRATCH).glob("*"):
            owner = left.name.partition("-")[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(left, ignore_errors=True)

    def size_bytes(self) -> int:
        """Bytes of all results."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clear(self) -> None:
        """Remove every result.

        Raises:
            StageFailed: a file cannot be removed.
        """
        if not self.folder.is_dir():
            return
        try:
            # Only what is ours: a user may have pointed the variable at a folder with other things.
            for record in self.folder.glob(f"*/*/{RECORD}"):
                shutil.rmtree(record.parent)
            for name in (SCRATCH, "work", LATENCY):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for lock in self.folder.glob("*/*.lock"):
                lock.unlink()
        except OSError as error:
            raise output_error(error, self.folder) from error


def _seal(folder: Path, stage: str, key: str) -> None:
    """Write the record of all files, after they have reached the disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
        files[path.relative_to(folder).as_posix()] = sha256_file(path)
    write_json(folder / RECORD, {"stage": stage, "key": key, "files": files})


def is_whole(folder: Path) -> bool:
    """Whether a result has all its files with the bytes they were written with."""
    try:
        files = json.loads((folder / RECORD).read_text("utf-8"))["files"]
        return all(sha256_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
