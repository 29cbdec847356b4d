"""Where messages of the product go: to a terminal, with a stage's result, or nowhere.

Every module says what it does by ``logging.getLogger(__name__)``, below the logger "edgemtl": INFO
for what a user of the command line reads, DEBUG for what ``-v`` adds. A program that imports the
product hears nothing unless it asks for it, as of any library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: name of the logger above all of ours
ROOT = "edgemtl"

#: whether what is logged now is kept with the result of a stage, and shown with that
_kept: ContextVar[logging.Handler | None] = ContextVar("edgemtl_kept", default=None)


class _Kept(logging.Handler):
    """Takes what is logged below ``kept``, and nothing that another thread logs."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        if _kept.get() is self:
            self._write(record.getMessage())


@contextmanager
def kept(write: Callable[[str], None]) -> Iterator[None]:
    """Hand what is logged inside at INFO and above to ``write``, and keep it from ``Lines``.

    It reaches only as far as the logger's own level lets it.
    """
    handler, logger = _Kept(write), logging.getLogger(ROOT)
    token = _kept.set(handler)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        _kept.reset(token)


class Lines(logging.Handler):
    """Prints every message as a line of its own, but for those that a stage keeps."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        if _kept.get() is None or record.levelno < logging.INFO:
            self._write(record.getMessage())

    @contextmanager
    def shown(self) -> Iterator[Lines]:
        """Print what is logged inside; afterwards the level is that of the beginning again."""
        logger = logging.getLogger(ROOT)
        before = logger.level
        # What a stage keeps must not depend on how much of it is printed.
        logger.setLevel(min(logging.INFO, self.level))
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)
            logger.setLevel(before)
            self.setLevel(logging.INFO)

    def show(self, level: int) -> None:
        """Print from this level on; may be said before anything is shown, too."""
        self.setLevel(level)
        logger = logging.getLogger(ROOT)
        if self in logger.handlers:
            logger.setLevel(min(logging.INFO, level))
