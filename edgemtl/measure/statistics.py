"""What a series of timings says, and whether it may be believed.

Outlier policy: nothing is dropped. A slow run is something that the device did and a user would
have waited for, so every sample counts in every figure; robust figures (median, MAD) keep single
spikes from deciding, and the percentiles show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgemtl.errors import InputRefused

#: scales the median absolute deviation to the standard deviation of a normal distribution
MAD_TO_STD = 1.4826
#: standard error of a median over that of a mean, for a normal distribution (sqrt(pi / 2))
MEDIAN_TO_MEAN_ERROR = 1.2533
#: block medians further apart than this share of the overall median ...
DRIFT_LIMIT = 0.20
#: ... and than this many standard errors of a block median make a run unstable
DRIFT_SIGMAS = 6.0
MOST_BLOCKS = 8
SMALLEST_BLOCK = 5
#: below this many samples a run cannot tell drift from noise
FEWEST_FOR_DRIFT = 4 * SMALLEST_BLOCK
#: an interval wider than this share of the ratio (half width) concludes nothing
WIDEST_INTERVAL = 0.15


@dataclass(frozen=True)
class Summary:
    """A series of timings in milliseconds.

    Attributes:
        count: samples, all of them.
        p50_ms: median; p90_ms, p99_ms: percentiles with linear interpolation.
        spread: 1.4826 * MAD / median, a robust relative standard deviation.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    spread: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Summary:
        """Parse :meth:`to_dict`; InputRefused when fields are missing or of the wrong type."""
        try:
            figures = {key: float(data[key]) for key in Summary.__dataclass_fields__}
            return Summary(int(figures.pop("count")), **figures)
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"a summary of timings is not readable: {error!r}") from error


@dataclass(frozen=True)
class Drift:
    """Whether a series stayed where it was.

    Attributes:
        trend: robust slope (Theil-Sen over block medians) times the length of the run, as a share
            of the median; 0.1 means the run ended 10 % slower than it began.
        range: largest minus smallest block median, as a share of the median.
        noise: standard error of one block median, as a share of the median.
        stable: False when ``range`` exceeds :data:`DRIFT_LIMIT` and :data:`DRIFT_SIGMAS` times the
            noise, or when there are too few samples to tell.
        reason: one sentence when not stable, else empty.
    """

    trend: float
    range: float
    noise: float
    stable: bool
    reason: str = ""


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its interval.

    Attributes:
        value: the ratio over all samples.
        low, high: bounds of the 95 % bootstrap interval.
        stable: whether the interval is narrow enough to conclude from.
        reason: one sentence when not stable, else empty.
    """

    value: float
    low: float
    high: float
    stable: bool = True
    reason: str = ""


def _series(samples: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(samples, np.float64).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("a series of timings needs at least one finite, non-negative sample")
    return values


def _mad(values: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def summarise(samples_ms: ArrayLike) -> Summary:
    """Describe (n,) timings in milliseconds.

    Raises:
        ValueError: no sample, or one that is negative or not finite.
    """
    values = _series(samples_ms)
    p50, p90, p99 = (float(v) for v in np.percentile(values, (50, 90, 99)))
    return Summary(
        count=len(values),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min_ms=float(values.min()),
        max_ms=float(values.max()),
        spread=MAD_TO_STD * _mad(values) / p50 if p50 > 0 else 0.0,
    )


def drift(samples_ms: ArrayLike, limit: float = DRIFT_LIMIT) -> Drift:
    """Judge whether (n,) timings, in the order they were taken, drifted.

    The run is cut into 4 to 8 equal parts. A run is unstable when the medians of the
    parts lie further apart than ``limit`` *and* further than the noise inside the parts explains:
    the first alone would call every short noisy run unstable, the second alone would object to a
    shift of 1 % on a quiet machine.
    """
    values = _series(samples_ms)
    if len(values) < FEWEST_FOR_DRIFT:
        reason = f"{len(values)} runs are too few to judge stability ({FEWEST_FOR_DRIFT} needed)"
        return Drift(0.0, 0.0, 0.0, False, reason)
    count = min(MOST_BLOCKS, len(values) // SMALLEST_BLOCK)
    blocks = np.array_split(values, count)
    medians = np.array([float(np.median(block)) for block in blocks])
    overall = max(float(np.median(values)), 1e-12)
    errors = [MAD_TO_STD * MEDIAN_TO_MEAN_ERROR * _mad(b) / np.sqrt(len(b)) for b in blocks]
    # One quiet block must not set the noise of all, nor one wild block: take the middle.
    noise = float(np.median(errors)) / overall
    spread = float(medians.max() - medians.min()) / overall
    later, earlier = np.triu_indices(count, 1)[::-1]
    slope = float(np.median((medians[later] - medians[earlier]) / (later - earlier)))
    trend = slope * (count - 1) / overall
    if spread <= max(limit, DRIFT_SIGMAS * noise):
        return Drift(trend, spread, noise, True)
    direction = "slower" if trend > 0 else "faster"
    reason = (
        f"medians of {count} parts of the run lie {spread:.0%} apart (limit {limit:.0%}), "
        f"trend {abs(trend):.0%} {direction}"
    )
    return Drift(trend, spread, noise, False, reason)


def ratio_of_medians(
    numerator: Sequence[ArrayLike],
    denominator: Sequence[ArrayLike],
    *,
    seed: int,
    resamples: int = 2000,
) -> Ratio:
    """Ratio of the medians of two interleaved series, with a 95 % interval.

    Args:
        numerator: blocks of timings; block i was taken next to block i of ``denominator``.
        denominator: as many blocks; all blocks of one series have the same length.
        seed: of the bootstrap.
        resamples: how many.

    The bootstrap draws *pairs of blocks* with replacement: neighbouring runs share the machine's
    mood, so single runs are not independent and drawing them would give too narrow an interval.
    The interval is the 2.5 and 97.5 percentile of the resampled ratios.

    Raises:
        ValueError: fewer than two pairs, or blocks that do not pair up.
    """
    top = np.stack([_series(block) for block in numerator])
    bottom = np.stack([_series(block) for block in denominator])
    pairs = len(top)
    if pairs < 2 or len(bottom) != pairs:
        raise ValueError("a ratio needs the same number of blocks of both, at least two")
    if float(np.median(bottom)) <= 0:
        raise ValueError("the denominator's median is zero")
    value = float(np.median(top) / np.median(bottom))
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for index in range(resamples):
        drawn = generator.integers(0, pairs, pairs)
        ratios[index] = np.median(top[drawn]) / np.median(bottom[drawn])
    low, high = (float(v) for v in np.percentile(ratios, (2.5, 97.5)))
    half = (high - low) / 2 / value if value > 0 else float("inf")
    if half <= WIDEST_INTERVAL:
        return Ratio(value, low, high)
    reason = f"the 95 % interval {low:.2f} to {high:.2f} is too wide to conclude from"
    return Ratio(value, low, high, False, reason)


def quantile_ratios(
    after: ArrayLike,
    before: ArrayLike,
    percentiles: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[Ratio, ...]:
    """Percentiles of one run over those of another one, each with a 95 % interval.

    Args:
        after: (n,) timings in the order taken; the numerator.
        before: (m,) timings of another run, not interleaved with the first.
        percentiles: 50 for the median, 99, ...
        seed: of the bootstrap.
        resamples: how many.

    The bootstrap draws whole blocks of each run with replacement, because neighbouring runs share
    the machine's mood. What differed between the two occasions as a whole (another load, another
    temperature) is in no interval: only an A/A check tells how much that is.

    Raises:
        ValueError: no sample, or one that is negative or not finite, or a baseline of zero.
    """
    top, bottom = _series(after), _series(before)
    points = list(percentiles)
    base = np.percentile(bottom, points)
    if (base <= 0).any():
        raise ValueError("the baseline's percentile is zero")
    values = np.percentile(top, points) / base
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(points)))
    blocks = [_blocks(series) for series in (top, bottom)]
    for index in range(resamples):
        numerator, denominator = (
            np.percentile(np.concatenate([rows[i] for i in picked]), points)
            for rows in blocks
            for picked in [generator.integers(0, len(rows), len(rows))]
        )
        drawn[index] = numerator / np.maximum(denominator, 1e-12)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    return tuple(
        Ratio(float(v), float(min(a, v)), float(max(b, v)))
        for v, a, b in zip(values, low, high, strict=True)
    )


#: blocks that a run is cut into for the bootstrap of :func:`quantile_ratios`
_BOOTSTRAP_BLOCKS = 20


def _blocks(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.array_split(values, max(1, min(_BOOTSTRAP_BLOCKS, len(values) // SMALLEST_BLOCK)))


def median_interval(
    samples_ms: ArrayLike, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95 % interval of the median of (n,) timings in the order taken.

    Bootstrap of whole blocks as in :func:`quantile_ratios`, with what that leaves out: how much
    another occasion would differ. Fewer samples than make two blocks give their whole range.

    Raises:
        ValueError: no sample, or one that is negative or not finite.
    """
    values = _series(samples_ms)
    if len(values) < 2 * SMALLEST_BLOCK:
        return float(values.min()), float(values.max())
    blocks, generator = _blocks(values), np.random.default_rng(seed)
    count = len(blocks)
    medians = [
        np.median(np.concatenate([blocks[i] for i in generator.integers(0, count, count)]))
        for _ in range(resamples)
    ]
    low, high = (float(v) for v in np.percentile(medians, (2.5, 97.5)))
    middle = float(np.median(values))
    return min(low, middle), max(high, middle)
