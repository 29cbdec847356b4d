"""How far long work is: loops report, and who called for the work may listen.

    with listening(lambda progress: bar.update(progress.done)):
        compile_model(...)

A loop does not know whether anybody listens. What is worth reading afterwards is not reported but
logged (``logging.getLogger(__name__)``, see :mod:`edgemtl.logs`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_log = logging.getLogger(__name__)

#: seconds between two log messages about one loop
LOG_EVERY = 1.0


@dataclass(frozen=True)
class Progress:
    """How far something is.

    Attributes:
        what: is done, a few words: "recovery training".
        done: parts that are through, from 0 to ``total``.
        total: parts in all; None where nobody knows, or where there are no parts.
        unit: of the parts, in the plural: "steps".
        seconds_left: as far as the parts that are through foretell; None where they do not.
        detail: what came of the last part, in a few words; mostly empty.
    """

    what: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    seconds_left: float | None = None
    detail: str = ""

    def sentence(self) -> str:
        """The same for people."""
        words = self.what
        if self.total is not None:
            words += f": {self.done} of {self.total} {self.unit}".rstrip()
        return f"{words} ({self.detail})" if self.detail else words


#: is called in the thread that does the work, and should be quick; what it raises ends the work
ProgressCallback = Callable[[Progress], None]

#: the last report, and when one was logged last
_last, _logged = Progress(""), 0.0
_listener: ContextVar[ProgressCallback | None] = ContextVar("edgemtl_progress", default=None)


@contextmanager
def listening(on_progress: ProgressCallback | None) -> Iterator[None]:
    """Have the work inside report to this function; None changes nothing."""
    if on_progress is None:
        yield
        return
    token = _listener.set(on_progress)
    try:
        yield
    finally:
        _listener.reset(token)


def report(progress: Progress) -> None:
    """Say how far the work of the caller is.

    Without a listener it is logged at DEBUG: the first and the last part, and one a second between.
    """
    listener = _listener.get()
    if listener is not None:
        listener(progress)
    elif _log.isEnabledFor(logging.DEBUG) and _due(progress):
        _log.debug(progress.sentence())


def _due(progress: Progress) -> bool:
    global _last, _logged
    goes_on = progress.what == _last.what and progress.done > _last.done
    ends = progress.total is None or progress.done >= progress.total
    now, _last = time.monotonic(), progress
    if goes_on and not ends and now - _logged < LOG_EVERY:
        return False
    _logged = now
    return True
