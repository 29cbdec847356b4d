"""Latency as a sample, never one number: warm-up, then runs until both limits are met.

The figures and the rule for drift are those of ``edgemtl.measure.statistics`` (which cannot be
imported on a device), so that a result from here is judged like one measured at home.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

#: runs stop here even when time is left: a fast network must not fill the device's memory
MAX_RUNS = 100000
#: seconds between two looks at the device, which are taken between runs and never in one
OBSERVE_EVERY_S = 0.5
#: a standard deviation from a median absolute deviation, and the error of a median from it
MAD_TO_STD = 1.4826
MEDIAN_TO_MEAN_ERROR = 1.2533
#: medians of the parts of a run may lie so far apart, as a share of the median ...
DRIFT_LIMIT = 0.20
#: ... or so many standard errors, whichever is more
DRIFT_SIGMAS = 6.0
MOST_BLOCKS = 8
SMALLEST_BLOCK = 5
FEWEST_FOR_DRIFT = 4 * SMALLEST_BLOCK


def sample(
    run: Callable[[], object],
    *,
    warm_up_s: float,
    min_runs: int,
    min_s: float,
    clock: Callable[[], float] = time.perf_counter,
    observe: Callable[[], object] = lambda: None,
) -> list[float]:
    """Time ``run`` over and over.

    Args:
        run: one inference; returns when its results are there.
        warm_up_s: seconds of untimed runs before, one run at least.
        min_runs: at least so many timed runs.
        min_s: and for at least so many seconds.
        clock: monotonic, in seconds.
        observe: looks at the device's clocks; called between runs, seldom.

    Returns:
        Milliseconds per run, in the order they happened.
    """
    start = clock()
    run()
    while clock() - start < warm_up_s:
        run()
    samples: list[float] = []
    # A collection in the middle of a run would be timed as if the network had done it.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = now = seen = clock()
        while len(samples) < MAX_RUNS and (len(samples) < min_runs or now - start < min_s):
            before = clock()
            run()
            now = clock()
            samples.append((now - before) * 1e3)
            if now - seen >= OBSERVE_EVERY_S:
                observe()
                seen = now = clock()
    finally:
        if was_enabled:
            gc.enable()
    return samples


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Count, percentiles (linear interpolation), mean, deviations and extremes, in milliseconds."""
    import numpy as np

    values = np.asarray(samples, np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    mad = float(np.median(np.abs(values - p50)))
    return {
        "count": len(values),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "mean_ms": float(values.mean()),
        "std_ms": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "min_ms": float(values.min()),
        "max_ms": float(values.max()),
        "spread": MAD_TO_STD * mad / p50 if p50 > 0 else 0.0,
    }


def instability(samples: Sequence[float]) -> str:
    """Why these samples may not be quoted; empty when they may.

    The run is cut into 4 to 8 equal parts; it drifted when their medians lie further apart than
    both the limit and the noise within the parts explain.
    """
    import numpy as np

    values = np.asarray(samples, np.float64)
    if len(values) < FEWEST_FOR_DRIFT:
        return f"{len(values)} runs are too few to judge stability ({FEWEST_FOR_DRIFT} needed)"
    blocks = np.array_split(values, min(MOST_BLOCKS, len(values) // SMALLEST_BLOCK))
    medians = [float(np.median(block)) for block in blocks]
    overall = max(float(np.median(values)), 1e-12)
    errors = [float(np.median(np.abs(b - np.median(b)))) / len(b) ** 0.5 for b in blocks]
    noise = MAD_TO_STD * MEDIAN_TO_MEAN_ERROR * float(np.median(errors)) / overall
    apart = (max(medians) - min(medians)) / overall
    if apart <= max(DRIFT_LIMIT, DRIFT_SIGMAS * noise):
        return ""
    return f"medians of {len(blocks)} parts of the run lie {100 * apart:.0f} % apart"
