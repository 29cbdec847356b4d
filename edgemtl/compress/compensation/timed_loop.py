"""How long a loop is still going to take, from what was done of it."""

from __future__ import annotations

import logging
import time

from edgemtl.compress.latency.durations import duration
from edgemtl.progress import Progress, report

_log = logging.getLogger(__name__)

#: seconds between two sentences
EVERY = 10.0


class TimedLoop:
    """Reports how far a loop is, and says it now and then.

    Args:
        what: goes through the loop, for the sentence: "calibration pictures".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = self._last = time.monotonic()
        self._first = 0

    def __call__(self, done: int, of: int) -> None:
        """``done`` of ``of`` are through."""
        now = time.monotonic()
        new = done - self._first
        left = (now - self._started) * (of - done) / new if new > 0 else None
        report(Progress(self._what, done, of, seconds_left=left))
        if now - self._last < EVERY or done >= of or left is None:
            return
        self._last = now
        _log.info(f"{self._what}: {done} of {of}, about {duration(left)} left")

    def start(self, done: int) -> None:
        """So many were through before: they took no time now."""
        self._first = done
