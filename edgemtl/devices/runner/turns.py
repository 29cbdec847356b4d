"""Two artefacts timed in turns: how much faster the one is, free of the device's moods.

The method of ``edgemtl.measure.latency.compare`` (which cannot be imported on a device): blocks of
runs in ABBA and BAAB quartets, in which a linear drift cancels, and an interval by drawing pairs of
blocks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

#: milliseconds of a block's runs
Block = Sequence[float]
PAIRS, FEWEST_PAIRS = 24, 8
BLOCK_SECONDS, MOST_SECONDS = 0.2, 60.0
FEWEST_RUNS, MOST_RUNS = 3, 500
RESAMPLES = 2000
#: half of an interval that is still narrow enough, as a share of the ratio
WIDEST = 0.15


def order(pairs: int, seed: int) -> str:
    """Who runs when: ``A`` and ``B``, as often each, in every pair."""
    chance = random.Random(seed)
    quartets = "".join(chance.choice(("ABBA", "BAAB")) for _ in range((pairs + 1) // 2))
    return quartets[: 2 * pairs]


def in_turns(
    measure: dict[str, Callable[[int], Block]],
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Time A and B in turns.

    Args:
        measure: ``A`` and ``B`` -> so many runs -> their milliseconds.
        seed: of the order and of the interval.
        clock: in seconds.

    Returns:
        ``speedup`` (how many times A is as fast as B, with its 95 % interval and whether it may be
        quoted), the medians, and how it was done.
    """
    import numpy as np

    slowest = max(float(np.median(measure[name](FEWEST_RUNS))) for name in "AB")
    runs = min(max(round(BLOCK_SECONDS * 1e3 / max(slowest, 1e-3)), FEWEST_RUNS), MOST_RUNS)
    blocks: dict[str, list[Block]] = {"A": [], "B": []}
    done, began = "", clock()
    for name in order(PAIRS, seed):
        pairs, half = divmod(len(done), 2)
        if not half and pairs >= FEWEST_PAIRS and clock() - began > MOST_SECONDS:
            break
        # A process that was asked for so many runs may answer with a few more.
        blocks[name].append(measure[name](runs)[:runs])
        done += name
    sides = {
        side.lower(): {"kind": "measured", "p50_ms": float(np.median(np.concatenate(found)))}
        for side, found in blocks.items()
    }
    return {
        "speedup": _speedup(blocks["B"], blocks["A"], seed),
        **sides,
        "pairs": len(blocks["A"]),
        "runs_per_block": runs,
        "order": done,
        "seed": seed,
    }


def _speedup(top: Sequence[Block], bottom: Sequence[Block], seed: int) -> dict[str, Any]:
    import numpy as np

    slow, fast = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    value = float(np.median(slow) / np.median(fast))
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(slow), (RESAMPLES, len(slow)))
    ratios = [float(np.median(slow[pick]) / np.median(fast[pick])) for pick in drawn]
    low, high = (float(bound) for bound in np.percentile(ratios, (2.5, 97.5)))
    stable = (high - low) / 2 <= WIDEST * value
    reason = f"the 95 % interval {low:.2f} to {high:.2f} is too wide to conclude from"
    return {
        "value": value,
        "low": low,
        "high": high,
        "stable": stable,
        "reason": "" if stable else reason,
    }
