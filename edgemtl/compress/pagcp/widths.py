"""Finding the smallest width that passes in few checks."""

from __future__ import annotations

import math
from collections.abc import Callable


def most_checks(count: int) -> int:
    """The most checks that :func:`farthest_passing` needs for ``count`` candidates."""
    return math.ceil(math.log2(count + 1)) + 2 if count else 0


def farthest_passing(
    count: int,
    start: int,
    passes: Callable[[int], bool],
    predict: Callable[[], int] | None = None,
) -> int:
    """The last index that passes, or -1, assuming that all before a passing one pass.

    The first check is at ``start``, where a prediction expects the boundary. The second is where
    the prediction, corrected by the first check, expects it, or else beside the first, so that a
    good prediction costs two checks; a wrong one falls back to bisection.

    Args:
        count: number of candidates.
        start: index to check first.
        passes: the check; called at most :func:`most_checks` times, never twice for one index.
        predict: the last index expected to pass, after what was checked so far.
    """
    below, above = -1, count
    probe = min(max(start, 0), count - 1)
    checks = 0
    while above - below > 1:
        checks += 1
        if passes(probe):
            below = probe
            beside = below + 1
        else:
            above = probe
            beside = above - 1
        if above - below <= 1:
            break
        if checks == 1:
            probe = beside if predict is None else min(max(predict(), below + 1), above - 1)
        else:
            probe = below + (above - below) // 2
    return below
