"""Going back from a step that broke the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.cost import Keep
from edgemtl.compress.replay.graph import State
from edgemtl.errors import EdgemtlError


@dataclass(frozen=True)
class Point:
    """The search right before a step.

    Attributes:
        group, width: the step: which group was cut to what width.
        keep: masks.
        state: masks and batch statistics of the oracle.
        current, reference: (tasks,) losses.
        tolerance: (tasks,) of the step.
        commits, steps: how many there were.
        order: units that were still to do after this one.
    """

    group: str
    width: int
    keep: dict[str, Tensor]
    state: State
    current: NDArray[np.float64]
    reference: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    commits: int
    steps: int
    order: tuple[str, ...]


def first_broken(
    states: Sequence[Keep], check: Callable[[Keep], None]
) -> tuple[int, EdgemtlError] | None:
    """The first of successive states that fails a check, and how; None when the last one passes.

    Found by bisection: what one step broke stays broken.
    """
    error = _problem(states[-1], check)
    if error is None:
        return None
    low, high = 0, len(states) - 1
    while low < high:
        middle = (low + high) // 2
        found = _problem(states[middle], check)
        if found is None:
            low = middle + 1
        else:
            high, error = middle, found
    return high, error


def _problem(keep: Keep, check: Callable[[Keep], None]) -> EdgemtlError | None:
    try:
        check(keep)
    except EdgemtlError as error:
        return error
    return None
