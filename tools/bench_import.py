"""Prints what ``import edgemtl`` takes, against the interpreter's own start.

Processes of both kinds take turns in a drawn order, so that a change in the machine's mood meets
both; the ratio of the medians comes with its 95 % interval. Run it on a machine that does nothing
else.

    python tools/bench_import.py [--pairs 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from entry import run_tool

from edgemtl.measure.statistics import Ratio, median_interval, ratio_of_medians

PROGRAMS = {"python -c pass": "pass", "import edgemtl": "import edgemtl"}


@dataclass(frozen=True)
class Found:
    """Milliseconds of every process by its program, and the ratio of the medians."""

    times_ms: dict[str, list[float]]
    ratio: Ratio

    def lines(self) -> list[str]:
        """What is printed."""
        told = []
        for name, times in self.times_ms.items():
            low, high = median_interval(times)
            told.append(
                f"{name:<16} {median(times):7.2f} ms (95 % interval {low:.2f} to {high:.2f})"
            )
        ratio = self.ratio
        count = len(next(iter(self.times_ms.values())))
        told.append(
            f"ratio            {ratio.value:7.3f} (95 % interval {ratio.low:.3f} to "
            f"{ratio.high:.3f}, {count} pairs of processes)"
        )
        return told if ratio.stable else [*told, f"not conclusive: {ratio.reason}"]


def measure(pairs: int, seed: int) -> Found:
    """Start ``pairs`` processes of both kinds in turns; one more of each fills the caches."""
    draw = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(pairs + 1):
        for name in draw.sample(list(PROGRAMS), 2):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", PROGRAMS[name]], check=True)
            if number:
                times[name].append((time.perf_counter() - began) * 1e3)
    bare, ours = times.values()
    ratio = ratio_of_medians([[one] for one in ours], [[one] for one in bare], seed=seed)
    return Found(times, ratio)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="processes of each kind, 2 or more")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the bootstrap")
    asked = parser.parse_args(arguments)
    if asked.pairs < 2:
        parser.error("--pairs must be at least 2")
    print("\n".join(measure(asked.pairs, asked.seed).lines()))
    return 0


if __name__ == "__main__":
    run_tool(main)
