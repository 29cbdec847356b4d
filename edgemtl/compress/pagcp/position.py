"""Where a search is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgemtl.compress.pagcp.budgets import Tolerances


@dataclass
class Position:
    """Where the search is; with the masks, all that is needed to go on.

    Attributes:
        sweep: number of the sweep.
        order: units still to do in it, first first.
        tolerances: of the sweep.
        budget: growth factor of this sweep per task.
        share: sum of the goals' remaining distances when the sweep began.
        commits: committed steps so far.
        scales: corrections of predicted rises, in the order they were found.
    """

    sweep: int = 0
    order: list[str] = field(default_factory=list)
    tolerances: Tolerances | None = None
    budget: dict[str, float] = field(default_factory=dict)
    distance: float = math.inf
    commits: int = 0
    scales: list[float] = field(default_factory=list)
