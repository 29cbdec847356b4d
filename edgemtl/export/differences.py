"""How far two arrays that should be equal are apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """Of ``b`` from the reference ``a``.

    Attributes:
        max_abs: largest absolute difference, in the tensor's unit.
        max_relative: the same divided by the reference's range (largest minus smallest value; its
            largest magnitude where it is constant).
        mean_abs: mean absolute difference.
        snr_db: 10 log10(sum a^2 / sum (a - b)^2); infinite when equal.
        problem: why the two cannot be compared (shape, values that are not finite); then the
            figures are NaN.
    """

    max_abs: float
    max_relative: float
    mean_abs: float
    snr_db: float
    problem: str = ""

    def within(self, max_relative: float) -> bool:
        """Whether they could be compared and are no further apart than this."""
        return not self.problem and self.max_relative <= max_relative

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity: null stands for it and for NaN."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def _not_comparable(problem: str) -> Difference:
    return Difference(math.nan, math.nan, math.nan, math.nan, problem)


def difference(a: NDArray[Any], b: NDArray[Any]) -> Difference:
    """Compare two arrays of one shape; computed in float64."""
    if a.shape != b.shape:
        return _not_comparable(f"the shape is {b.shape}, expected {a.shape}")
    if a.size == 0:
        return _not_comparable("the output is empty: nothing was compared")
    for array, whose in ((b, "it"), (a, "the reference")):
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            return _not_comparable(f"{whose} holds {bad} NaN or infinite value(s)")
    reference = a.astype(np.float64)
    error = np.abs(b.astype(np.float64) - reference)
    worst = float(error.max())
    extent = float(np.ptp(reference)) or float(np.abs(reference).max())
    relative = worst / extent if extent > 0 else (0.0 if worst == 0 else math.inf)
    noise = float((error**2).sum())
    signal = float((reference**2).sum())
    snr = math.inf if noise == 0 else (10 * math.log10(signal / noise) if signal else -math.inf)
    return Difference(worst, relative, float(error.mean()), snr)
