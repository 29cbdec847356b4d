"""Judging a trial after few pictures: a paired sequential test (design section 6 g)."""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

#: a decision is made when the mean is this many standard errors clear of the limit
STANDARD_ERRORS = 2.0
#: pictures that a task must be labelled in before its standard error is believed
FEWEST = 12
#: pictures whose loss must have changed before: what hurts few pictures (of small faces, say) has
#: no standard error until some of them were seen
FEWEST_CHANGED = 6
#: once so many standard errors are within this share of the slack, the mean decides: so close to
#: the limit either answer will do, and telling which is right would take all pictures there are
INDIFFERENT = 0.3


class Verdict(enum.Enum):
    """What the pictures seen so far say about a trial."""

    ACCEPT = "accept"
    REJECT = "reject"
    OPEN = "open"


def judge(
    rises: NDArray[np.float64], slack: NDArray[np.float64], labelled: NDArray[np.bool_], last: bool
) -> Verdict:
    """Whether every task's mean rise stays within its slack.

    Args:
        rises: (n, tasks) per picture: loss of the trial minus loss of the committed state, of the
            tasks that can change at all.
        slack: (tasks,) how much the mean loss may rise.
        labelled: (n, tasks) whether the picture says anything about the task; the mean is over
            these, a task without any is not judged.
        last: no picture is left; the means decide.

    Returns:
        REJECT as soon as one task is surely over its slack, or over it and known well enough;
        ACCEPT when all are within, likewise.
    """
    if not np.isfinite(rises).all():
        return Verdict.REJECT
    sure = True
    for task in range(rises.shape[1]):
        values = rises[labelled[:, task], task]
        if len(values) == 0:
            sure = sure and last
            continue
        mean = float(values.mean())
        if last:
            if mean > slack[task]:
                return Verdict.REJECT
            continue
        if len(values) < FEWEST or np.count_nonzero(values) < FEWEST_CHANGED:
            sure = False
            continue
        margin = STANDARD_ERRORS * float(values.std(ddof=1)) / np.sqrt(len(values))
        known = margin <= INDIFFERENT * slack[task]
        if mean > slack[task] and (known or mean - margin > slack[task]):
            return Verdict.REJECT
        sure = sure and (known or mean + margin <= slack[task])
    return Verdict.ACCEPT if sure else Verdict.OPEN
