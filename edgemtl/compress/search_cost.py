"""What a search costs, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SearchCost:
    """What the oracle cost.

    Attributes:
        macs: multiply-accumulates; what a farm computes ahead and does not need is not counted.
        images: pictures whose losses were looked at, over all trials.
        trials: masks that were judged.
        seconds: wall time.
    """

    macs: int = 0
    images: int = 0
    trials: int = 0
    seconds: float = 0.0

    def plus(self, other: SearchCost) -> SearchCost:
        """The sum."""
        return SearchCost(
            self.macs + other.macs,
            self.images + other.images,
            self.trials + other.trials,
            self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "macs": self.macs,
            "images": self.images,
            "trials": self.trials,
            "seconds": round(self.seconds, 2),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SearchCost:
        """Parse :meth:`to_dict`."""
        return SearchCost(
            int(data["macs"]), int(data["images"]), int(data["trials"]), float(data["seconds"])
        )
