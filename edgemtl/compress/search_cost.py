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
        passes: how often the calibration pictures went through the dense network, counted in
            forward passes (a backward pass counts two).
        peak_mib: most memory that the process has held; 0 where it was not looked at.
    """

    macs: int = 0
    images: int = 0
    trials: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    peak_mib: float = 0.0

    def plus(self, other: SearchCost) -> SearchCost:
        """The sum."""
        return SearchCost(
            self.macs + other.macs,
            self.images + other.images,
            self.trials + other.trials,
            self.seconds + other.seconds,
            self.passes + other.passes,
            max(self.peak_mib, other.peak_mib),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "macs": self.macs,
            "images": self.images,
            "trials": self.trials,
            "seconds": round(self.seconds, 2),
            "passes": round(self.passes, 2),
            "peak_mib": round(self.peak_mib, 1),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SearchCost:
        """Parse :meth:`to_dict`."""
        return SearchCost(
            int(data["macs"]),
            int(data["images"]),
            int(data["trials"]),
            float(data["seconds"]),
            float(data.get("passes", 0.0)),
            float(data.get("peak_mib", 0.0)),
        )


def peak_mib() -> float:
    """Most memory that this process has held so far, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
