"""Finding the smallest width that passes in few checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

#: so many checks are placed by predictions, the first among them; then bisection takes over
PREDICTED = 4
#: interpolation aims at this share of the slack, to land on the side that passes
AIM = 0.85


def most_checks(count: int) -> int:
    """The most checks that :func:`farthest_passing` needs for ``count`` candidates."""
    return math.ceil(math.log2(count + 1)) + PREDICTED - 1 if count else 0


def farthest_passing(
    count: int,
    start: int,
    passes: Callable[[int], bool],
    predict: Callable[[], int] | None = None,
    enough: Callable[[int, int], bool] = lambda below, above: False,
) -> int:
    """The last index that passes, or -1, assuming that all before a passing one pass.

    The first check is at ``start``, where a prediction expects the boundary. The next ones are
    where the prediction, corrected by the checks so far, expects it, or else beside the first, so
    that a good prediction costs two checks; a wrong one falls back to bisection.

    Args:
        count: number of candidates.
        start: index to check first.
        passes: the check; called at most :func:`most_checks` times, never twice for one index.
        predict: the last index expected to pass, after what was checked so far.
        enough: whether to be content with ``below`` (which passes, or -1) although what lies
            between it and ``above`` (which does not pass, or is ``count``) was not checked.
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
        if above - below <= 1 or enough(below, above):
            break
        if checks == 1 and predict is None:
            probe = beside
        elif checks < PREDICTED and predict is not None:
            probe = min(max(predict(), below + 1), above - 1)
        else:
            probe = below + (above - below) // 2
    return below


def between(passed: int, failed: int, pressures: Mapping[int, float]) -> int:
    """Where the boundary is expected between two checks, if pressure grows exponentially.

    Args:
        passed, failed: indices that were checked, ``passed`` the smaller.
        pressures: index -> rise of the loss as a share of the slack there.
    """
    low = math.log(max(pressures[passed], 0.02))
    high = math.log(max(pressures[failed], 1.05))
    share = (math.log(AIM) - low) / (high - low)
    return passed + round(min(max(share, 0.0), 1.0) * (failed - passed))
