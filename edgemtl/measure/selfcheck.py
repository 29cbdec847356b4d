"""A/A: one artefact measured twice. What differs then, this machine cannot tell apart."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from edgemtl.measure.latency import bench, compare
from edgemtl.measure.results import BenchRequest, Comparison, InterleaveRule, LatencyResult
from edgemtl.measure.statistics import Ratio, quantile_ratios


@dataclass(frozen=True)
class SelfCheck:
    """What two measurements of one artefact gave.

    Attributes:
        first, second: one after the other, each in a process of its own, as two runs of ``bench``.
        median, p99: second over first, with 95 % intervals: what a comparison with a baseline of
            an earlier run cannot see below.
        interleaved: the artefact in turns with itself: the same for ``bench --against``.
        claim: the share that somebody wants to tell apart.
    """

    first: LatencyResult
    second: LatencyResult
    median: Ratio
    p99: Ratio
    interleaved: Comparison
    claim: float

    @property
    def floor(self) -> float:
        """Noise floor of a median against an earlier run's, as a share."""
        return _farthest(self.median)

    @property
    def interleaved_floor(self) -> float:
        """Noise floor of a median against one taken in turns, as a share."""
        return _farthest(self.interleaved.speedup)

    @property
    def stable(self) -> bool:
        """Whether differences of the size of the claim can be told apart here."""
        return not self.reason

    @property
    def reason(self) -> str:
        """One sentence when not, else empty."""
        for name, result in (("first", self.first), ("second", self.second)):
            if not result.stable:
                return f"the {name} measurement was not stable: {result.reason}"
        for name, found in (
            ("one after the other", self.floor),
            ("in turns", self.interleaved_floor),
        ):
            if found > self.claim:
                return (
                    f"measured {name}, the same file differs by up to {found:.1%}, which is over "
                    f"the {self.claim:.1%} that is to be told apart"
                )
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "claim": self.claim,
            "noise_floor": self.floor,
            "noise_floor_interleaved": self.interleaved_floor,
            "stable": self.stable,
            "reason": self.reason,
            "median": asdict(self.median),
            "p99": asdict(self.p99),
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "interleaved": self.interleaved.to_dict(),
        }


def _farthest(ratio: Ratio) -> float:
    """How far the interval reaches from "no difference"."""
    return max(abs(ratio.high - 1), abs(1 - ratio.low))


def self_check(
    request: BenchRequest,
    claim: float,
    rule: InterleaveRule | None = None,
) -> SelfCheck:
    """Measure one artefact twice in a row, then in turns with itself.

    Args:
        request: what to measure, and how long.
        claim: largest difference, as a share, that may be left between the two.
        rule: how they take turns.

    Raises:
        StageFailed, InputRefused, TargetUnavailable: as :func:`edgemtl.measure.latency.bench`.
    """
    first = bench(request)
    time.sleep(request.stop.cooldown_seconds)
    second = bench(request)
    median, p99 = quantile_ratios(second.samples_ms, first.samples_ms, (50, 99), seed=request.seed)
    interleaved = compare(request, request, rule, request.seed)
    return SelfCheck(first, second, median, p99, interleaved, claim)
