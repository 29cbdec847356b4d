"""What each task may lose beside the others, from what was said of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def task_shares(tasks: Sequence[str], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """(tasks,) what each may lose; only ratios count.

    A task without a share has the mean of the others, one with 0 a tenth of the least.
    """
    given = [value for name, value in shares.items() if name in tasks and value > 0]
    usual = float(np.mean(given)) if given else 1.0
    least = min(given, default=1.0) * 0.1
    return np.array([shares.get(name, usual) or least for name in tasks])
