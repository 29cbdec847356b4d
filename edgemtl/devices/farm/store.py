"""Files by the hash of their contents: whoever has one is not sent it again."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, Any

from edgemtl.errors import InputRefused, StageFailed
from edgemtl.files import output_error, sha256_file

#: bytes per message; small enough that nobody waits long behind it
BLOCK = 4 << 20
#: files that nobody asked for in so many days go when the store is opened
KEPT_DAYS = 30
#: uploads that got no further for so long are given up
_STALE_SECONDS = 3600.0
#: block of a file by (digest, offset) -> bytes; empty at its end
Get = Callable[[str, int], bytes]


@dataclass
class _Upload:
    stream: IO[bytes]
    digest: Any = field(default_factory=sha256)
    touched: float = field(default_factory=time.monotonic)


class FileStore:
    """A folder of files that are named by their SHA-256.

    A file is checked as it comes in, and is there whole or not at all.

    Args:
        folder: made if it is not there.

    Raises:
        StageFailed: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._uploads: dict[tuple[str, str], _Upload] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob("*.part"):
                part.unlink(missing_ok=True)
            oldest = time.time() - KEPT_DAYS * 86400
            for path in folder.glob("*/*"):
                if path.is_file() and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(error, folder) from error

    def path(self, digest: str) -> Path:
        """Where a file lies, or would.

        Raises:
            InputRefused: not a SHA-256.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise InputRefused("not a SHA-256", where=repr(digest[:80]))
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether a file is here; it is kept for longer from now on."""
        path = self.path(digest)
        try:
            os.utime(path)
        except OSError:
            return False
        return True

    def lacking(self, digests: Iterable[str]) -> list[str]:
        """Those that are not here."""
        return [digest for digest in digests if not self.has(digest)]

    def begin(self, digest: str) -> str:
        """Start to take a file; the token is given with each block."""
        self.path(digest)
        now = time.monotonic()
        for key, upload in list(self._uploads.items()):
            if now - upload.touched > _STALE_SECONDS:
                self._drop(key)
        token = secrets.token_hex(8)
        try:
            stream = self._part(digest, token).open("wb")
        except OSError as error:
            raise output_error(error, self.folder) from error
        self._uploads[digest, token] = _Upload(stream)
        return token

    def append(self, digest: str, token: str, block: bytes) -> None:
        """Take the next block.

        Raises:
            StageFailed: the disk is full, or nothing was begun under this token.
        """
        upload = self._uploads.get((digest, token))
        if upload is None:
            raise StageFailed("this transfer was given up; try again")
        try:
            upload.stream.write(block)
        except OSError as error:
            self._drop((digest, token))
            raise output_error(error, self.folder) from error
        upload.digest.update(block)
        upload.touched = time.monotonic()

    def finish(self, digest: str, token: str) -> None:
        """The file is whole: check it and let others see it.

        Raises:
            StageFailed: other bytes came than were announced, or the disk is full.
        """
        upload = self._uploads.get((digest, token))
        if upload is None:
            raise StageFailed("this transfer was given up; try again")
        found = upload.digest.hexdigest()
        try:
            upload.stream.close()
            if found != digest:
                raise StageFailed("a file arrived damaged", where=digest)
            final = self.path(digest)
            final.parent.mkdir(exist_ok=True)
            self._part(digest, token).replace(final)
        except OSError as error:
            raise output_error(error, self.folder) from error
        finally:
            self._drop((digest, token))

    def read(self, digest: str, offset: int) -> bytes:
        """A block of a file; empty at its end.

        Raises:
            InputRefused: it is not here.
        """
        try:
            with self.path(digest).open("rb") as stream:
                stream.seek(offset)
                return stream.read(BLOCK)
        except OSError as error:
            raise InputRefused(
                "the farm does not have this file (any more)", where=digest
            ) from error

    def add(self, source: Path) -> str:
        """Take a copy of a file; returns its digest."""
        digest = sha256_file(source)
        if not self.has(digest):
            with source.open("rb") as stream:
                self.take(digest, lambda _, __: stream.read(BLOCK))
        return digest

    def take(self, digest: str, get: Get) -> int:
        """Fetch a file block by block, unless it is here; returns the bytes that came."""
        if self.has(digest):
            return 0
        token, offset = self.begin(digest), 0
        try:
            while block := get(digest, offset):
                self.append(digest, token, block)
                offset += len(block)
            self.finish(digest, token)
        finally:
            self._drop((digest, token))
        return offset

    def lay_out(self, files: Mapping[str, str], folder: Path) -> None:
        """Put files, relative path -> digest, where a program expects them.

        Raises:
            InputRefused: a path that leaves the folder.
            StageFailed: the disk is full.
        """
        for name, digest in files.items():
            place = folder / plain_path(name)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self.path(digest), place)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(self.path(digest), place)
            except OSError as error:
                raise output_error(error, place) from error

    def _part(self, digest: str, token: str) -> Path:
        return self.folder / f"{digest}-{token}.part"

    def _drop(self, key: tuple[str, str]) -> None:
        upload = self._uploads.pop(key, None)
        if upload is not None:
            upload.stream.close()
            self._part(*key).unlink(missing_ok=True)


def plain_path(name: str) -> Path:
    """A relative path from somebody else, which must stay inside the folder it is put into.

    Raises:
        InputRefused: it does not.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputRefused("not a path inside a folder", where=repr(name[:200]))
    return Path(*path.parts)
