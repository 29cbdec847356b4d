"""How long something is still going to take, from what was done of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgemtl.compress.latency.durations import duration

#: seconds between two sentences
EVERY = 10.0


class Progress:
    """Says now and then how far a loop is.

    Args:
        what: is done, for the sentence.
        tell: receives it.
    """

    def __init__(self, what: str, tell: Callable[[str], None]) -> None:
        self._what, self._tell = what, tell
        self._started = self._last = time.monotonic()
        self._first = 0

    def __call__(self, done: int, of: int) -> None:
        """``done`` of ``of`` are through."""
        now = time.monotonic()
        if now - self._last < EVERY or done >= of or done <= self._first:
            return
        self._last = now
        left = (now - self._started) * (of - done) / (done - self._first)
        self._tell(f"{self._what}: {done} of {of}, about {duration(left)} left")

    def start(self, done: int) -> None:
        """So many were through before: they took no time now."""
        self._first = done
