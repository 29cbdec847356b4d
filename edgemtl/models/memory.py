"""What a checkpoint takes in memory, before it is read; a file of a megabyte may hold gigabytes."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

from edgemtl.errors import InputRefused

_log = logging.getLogger(__name__)

#: of Python and torch alone
BASE_BYTES = 400_000_000
#: what is said beforehand
WORTH_SAYING = 2_000_000_000


def stored_bytes(path: Path) -> int:
    """Bytes of a checkpoint once its members are unpacked: torch reads packed ones too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return max(path.stat().st_size, sum(entry.file_size for entry in archive.infolist()))
    except Exception:  # not a zip, or a damaged one, which whoever reads it will say
        return path.stat().st_size


def require_memory(path: Path, copies: float, doing: str) -> None:
    """Say what a large checkpoint takes, and refuse one that does not fit here.

    Args:
        path: of an existing file.
        copies: how often its weights are in memory at once.
        doing: "reading" or the like, for the message.

    Raises:
        InputRefused: it takes more than this machine has free.
    """
    need = BASE_BYTES + copies * stored_bytes(path)
    if need <= WORTH_SAYING:
        return
    import psutil

    free = psutil.virtual_memory().available
    if need > free:
        raise InputRefused(
            f"{doing} this checkpoint takes about {need / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free here",
            where=str(path),
            hint="use a machine with more memory",
        )
    _log.info(f"{doing} {path.name} takes about {need / 1e9:.1f} GB of memory")
