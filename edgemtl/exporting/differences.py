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
        max_relative: the same divided by the reference's range, see :func:`extent`.
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

    @property
    def told(self) -> str:
        """One half-sentence: why they cannot be compared, or how far apart they are."""
        if self.problem:
            return self.problem
        if math.isinf(self.max_relative):
            return f"is off by up to {self.max_abs:.3g} where the reference is 0 throughout"
        return f"differs by {self.max_relative:.2g} of its range"

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


def extent(reference: NDArray[Any]) -> float:
    """The range that differences are a share of: span or largest magnitude, whichever is larger.

    The span alone would blow up the rounding of an output that hardly varies: one that is 0.76
    everywhere is rounded in steps of 6e-8, which are 0.1 % of a span of 5e-5.

    Args:
        reference: finite values, at least one.

    Returns:
        In the values' unit; 0 where all are 0.
    """
    values = reference.astype(np.float64)
    return max(float(np.ptp(values)), float(np.abs(values).max()))


def difference(a: NDArray[Any], b: NDArray[Any]) -> Difference:
    """Compare two arrays of one shape, ``a`` being the reference; computed in float64."""
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
    whole = extent(reference)
    relative = worst / whole if whole > 0 else (0.0 if worst == 0 else math.inf)
    noise = float((error**2).sum())
    signal = float((reference**2).sum())
    snr = math.inf if noise == 0 else (10 * math.log10(signal / noise) if signal else -math.inf)
    return Difference(worst, relative, float(error.mean()), snr)
