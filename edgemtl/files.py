"""Files that are whole or absent: every write of ours goes through here."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from edgemtl.errors import EdgemtlError, InputRefused, StageFailed, unexpected


def output_error(error: OSError, path: Path) -> StageFailed:
    """The clear sentence for a place that cannot be written."""
    if error.errno == errno.ENOSPC:
        return StageFailed("the disk is full", where=str(path), hint="free space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StageFailed(
            "this place is not writable", where=str(path), hint="choose another with --output"
        )
    return StageFailed(f"cannot read or write: {error.strerror or error}", where=str(path))


def as_told(error: Exception) -> EdgemtlError:
    """Any exception as the sentence that a user is told."""
    if isinstance(error, EdgemtlError):
        return error
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        name = "".join(c if c.isprintable() else "?" for c in str(error.object)[:200])
        return InputRefused("the name of a file or folder is not UTF-8", where=name)
    if isinstance(error, OSError):
        place = error.filename if isinstance(error.filename, str) else "."
        return output_error(error, Path(place))
    told = unexpected(error)
    told.__cause__ = error  # so that a program that gets to see it shows where
    return told


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], object], private: bool = False
) -> None:
    """Write through a temporary file in the same folder, fsync, rename.

    A link stays a link: what it points to is replaced. A FIFO or a character device (``/dev/null``)
    is written into; it is not replaced by a file.

    Args:
        path: where.
        write: called with the open file.
        private: readable by its owner alone, at every moment.

    Raises:
        StageFailed: the folder is missing and cannot be made, not writable, the disk is full, or
            the place is a folder, a disk or a socket.
    """
    temporary: Path | None = None
    try:
        if _is_stream(path):
            # What writes may want to go back in the file, which a stream cannot.
            content = io.BytesIO()
            write(content)
            path.write_bytes(content.getvalue())
            return
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; a result should follow the user's umask like any other.
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Whether bytes written to this place go on to somebody.

    Raises:
        StageFailed: it is neither that nor a place for a file.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing there yet, or nothing that can be looked at
        return False
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return True
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "disk or a socket"
        raise StageFailed(
            f"the output is a {kind}", where=str(path), hint="name a file with --output"
        )
    return False


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda stream: stream.write(text.encode("utf-8")))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, keys in insertion order, two spaces, newline at the end."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """Parse a JSON file of ours.

    Raises:
        InputRefused: missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputRefused("there is no such file", where=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"not readable JSON: {error}", where=str(path)) from error
