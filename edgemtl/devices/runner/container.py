"""A bundle's files, in its zip or unpacked in a folder; both are untrusted.

Nothing is written outside the folder asked for, nothing larger than announced is read, and every
byte handed out by :func:`checked_blocks` has been compared with the manifest's hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Union

from .errors import INPUT_REFUSED, STAGE_FAILED, VERIFICATION, RunnerError

#: a bundle has a dozen files; more than this is not one of ours
MAX_MEMBERS = 4096
#: of all files together, unpacked
MAX_TOTAL_BYTES = 4 << 30
#: we store without compression; a bundle somebody packed again shrinks by little
MAX_RATIO = 50
MANIFEST = "manifest.json"
#: of the manifest; checked at home, where there is a library for it
SIGNATURE = "manifest.sig"
BLOCK = 1 << 20
#: all that zipfile raises over headers that were altered: ValueError for names and offsets,
#: RuntimeError (of which NotImplementedError is one) for encryption and versions it does not know
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)


#: names that Windows keeps for devices, whatever follows a dot
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])\s*(\.|$)",
    re.I,
)


def check_name(name: str) -> str:
    """Return ``name`` when it is a plain relative path with forward slashes.

    Raises:
        RunnerError: it is absolute, climbs up, or is read differently by different systems.
    """
    parts = name.split("/")
    if (
        not name
        or len(name) > 512
        or any(part in ("", ".", "..") for part in parts)
        or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name)
        # Windows drops dots and spaces at the end, and opens devices by these names.
        or any(part != part.rstrip(". ") for part in parts)
        or any(_DEVICE.match(part) for part in parts)
    ):
        raise RunnerError(INPUT_REFUSED, f"the bundle has a file with the unsafe name {name!r}")
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Refuse names of which a file system would make one file, or a file and a folder.

    Raises:
        RunnerError: two are equal but for case or the way that an accent is written, or one lies
            below another.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in files or key in folders:
            raise RunnerError(INPUT_REFUSED, f"'{name}' is there twice")
        files.add(key)
        parts = key.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts))}
        if above & files:
            raise RunnerError(INPUT_REFUSED, f"'{name}' lies below a file")
        folders |= above


class ZipFiles:
    """The members of a zip, checked before any of them is read.

    Raises:
        RunnerError: not a zip, cut short, or with members that a bundle never has.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_archive = True
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError as error:
            raise RunnerError(INPUT_REFUSED, f"{path}: there is no such file") from error
        except _DAMAGE as error:
            raise RunnerError(
                INPUT_REFUSED, f"{path}: this is not a bundle, or it was cut short ({error})"
            ) from error
        try:
            self._members = self._checked_members()
        except RunnerError as error:
            self._zip.close()
            raise RunnerError(error.code, f"{path}: {error.message}") from error

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise RunnerError(
                INPUT_REFUSED, f"{len(infos)} files, more than the {MAX_MEMBERS} a bundle may have"
            )
        total = sum(info.file_size for info in infos)
        if total > min(MAX_TOTAL_BYTES, MAX_RATIO * Path(self.path).stat().st_size):
            raise RunnerError(
                INPUT_REFUSED, f"it would unpack to {total} bytes, which is out of proportion"
            )
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            # zipfile cuts names at a NUL byte; the uncut one is what has to be safe.
            name = check_name(info.orig_filename)
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise RunnerError(INPUT_REFUSED, f"'{name}' is a link or another special file")
            if info.flag_bits & 1:
                raise RunnerError(INPUT_REFUSED, f"'{name}' is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise RunnerError(INPUT_REFUSED, f"'{name}' is compressed in an unknown way")
            members[name] = info
        # Two names that one file system takes for the same file would overwrite each other.
        check_distinct(info.orig_filename for info in infos)
        return members

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """All members, sorted."""
        return sorted(self._members)

    def size(self, name: str) -> int:
        """Size in bytes that the directory of the zip announces."""
        return self._members[name].file_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member for reading.

        Raises:
            RunnerError: its bytes are damaged.
        """
        try:
            with self._zip.open(self._members[name]) as stream:
                yield stream
        except _DAMAGE as error:
            raise RunnerError(VERIFICATION, f"'{name}' is damaged ({error})") from error

    def close(self) -> None:
        """Close the zip."""
        self._zip.close()


class FolderFiles:
    """The files of an unpacked bundle; links are not followed.

    Raises:
        RunnerError: there is no such folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_archive = False
        self._sizes: dict[str, int] = {}
        if not Path(path).is_dir():
            raise RunnerError(INPUT_REFUSED, f"{path}: there is no such bundle")
        for folder, _, files in os.walk(path):
            for file in files:
                full = Path(folder, file)
                status = full.lstat()
                if stat.S_ISREG(status.st_mode):
                    self._sizes[full.relative_to(path).as_posix()] = status.st_size

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def names(self) -> list[str]:
        """All regular files, sorted."""
        return sorted(self._sizes)

    def size(self, name: str) -> int:
        """Size in bytes."""
        return self._sizes[name]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading.

        Raises:
            RunnerError: it cannot be read.
        """
        try:
            with Path(self.path, name).open("rb") as stream:
                yield stream
        except OSError as error:
            raise RunnerError(VERIFICATION, f"'{name}' cannot be read ({error})") from error

    def close(self) -> None:
        """Nothing is held open."""


Files = Union[ZipFiles, FolderFiles]  # noqa: UP007 - evaluated by Python 3.8


def open_files(path: str) -> Files:
    """Open a bundle: a folder when it is one, a zip otherwise."""
    return FolderFiles(path) if Path(path).is_dir() else ZipFiles(path)


def read_small(files: Files, name: str, limit: int) -> bytes:
    """Read a file that the manifest does not vouch for: the manifest itself.

    Raises:
        RunnerError: it is missing, damaged or larger than ``limit`` bytes.
    """
    if name not in files:
        raise RunnerError(INPUT_REFUSED, f"{files.path}: this is not a bundle, it has no {name}")
    with files.open(name) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise RunnerError(INPUT_REFUSED, f"{files.path}: {name} is larger than {limit} bytes")
    return data


def checked_blocks(files: Files, name: str, entry: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of a file in blocks; exhausting the iterator proves size and hash.

    Args:
        files: the bundle.
        name: of the file.
        entry: its line of the manifest, ``{"sha256": hex, "size": bytes}``.

    Raises:
        RunnerError: the file is missing, or its size or hash is not the manifest's.
    """
    if name not in files:
        raise RunnerError(VERIFICATION, f"'{name}' is missing from the bundle")
    if files.size(name) != entry["size"]:
        raise RunnerError(
            VERIFICATION,
            f"'{name}' has {files.size(name)} bytes, the manifest says {entry['size']}",
        )
    digest = hashlib.sha256()
    left = int(entry["size"])
    with files.open(name) as stream:
        while left > 0:
            block = stream.read(min(BLOCK, left))
            if not block:
                break
            left -= len(block)
            digest.update(block)
            yield block
    if left or digest.hexdigest() != entry["sha256"]:
        raise RunnerError(VERIFICATION, f"the content of '{name}' is not what the manifest says")


def check_all(files: Files, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Check every file of the manifest.

    Returns:
        Files the manifest does not name. Only a folder may have them: results are written there.

    Raises:
        RunnerError: a file is missing, differs, or is an extra member of the zip.
    """
    known = {MANIFEST, SIGNATURE}
    extra = [name for name in files.names() if name not in known and name not in entries]
    if extra and files.is_archive:
        raise RunnerError(VERIFICATION, f"'{extra[0]}' is in the bundle but not in its manifest")
    for name in sorted(entries):
        for _ in checked_blocks(files, name, entries[name]):
            pass
    return extra


def extract(files: Files, entries: Mapping[str, Mapping[str, Any]], folder: str) -> None:
    """Write checked files into a private folder; used where a runtime wants paths.

    Raises:
        RunnerError: a file does not verify, or the folder cannot be written.
    """
    for name in sorted(entries):
        path = Path(folder, check_name(name))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                for block in checked_blocks(files, name, entries[name]):
                    stream.write(block)
        except OSError as error:
            raise RunnerError(STAGE_FAILED, f"cannot write {path} ({error.strerror})") from error
