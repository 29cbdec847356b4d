"""Latency, alone and in turns: what the bench stage, the verb and the choice of precision share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.artefacts import same_artefact
from edgemtl.errors import StageFailed
from edgemtl.measure.latency import bench, compare
from edgemtl.measure.results import (
    BenchRequest,
    Comparison,
    InterleaveRule,
    LatencyResult,
    StopRule,
)
from edgemtl.measure.statistics import Ratio
from edgemtl.recipes import BenchSection
from edgemtl.record.run_record import (
    COMPARISON,
    IDENTICAL,
    LATENCY,
    LAYERS,
    PRECISION,
    REFERENCE,
    SKIPPED,
)
from edgemtl.targets import Target

#: seconds that a comparison may take, in pairs of blocks
COMPARE = InterleaveRule(pairs=24, min_pairs=8, block_seconds=0.2, max_seconds=30.0)


def stop_rule(asked: BenchSection, cooldown_seconds: float = 1.0) -> StopRule:
    """When a measurement ends, as a recipe asks."""
    return StopRule(
        warmup_seconds=asked.warmup_seconds,
        min_runs=asked.min_runs,
        min_seconds=min(asked.seconds, asked.max_seconds),
        max_seconds=asked.max_seconds,
        cooldown_seconds=cooldown_seconds,
    )


def compare_rule(asked: BenchSection, most: InterleaveRule = COMPARE) -> InterleaveRule:
    """How two take turns: as ``most`` says, and no longer than a recipe lets a measurement take."""
    return replace(
        most,
        block_seconds=min(most.block_seconds, asked.seconds),
        max_seconds=min(most.max_seconds, asked.max_seconds),
    )


def not_timed(asked: BenchSection, target: Target) -> str:
    """Why a run measures no latency; empty where it does."""
    if not asked.enabled:
        return "switched off"
    return "" if target.measured_here else "this machine is not the device"


@dataclass(frozen=True)
class LatencyRequest:
    """An artefact to time.

    Attributes:
        artefact: what is timed.
        against: of the uncompressed network, timed in turns with it; None for the artefact alone.
        in_float: of the same network in float32, where a precision was chosen.
        rule: how they take turns.
        alone: whether the artefact is timed by itself too.
        same_bytes: also take turns with an artefact of the same bytes.
        images: (N, 3, H, W) inputs that the time of each layer is asked on; None for no layers.
    """

    artefact: BenchRequest
    against: BenchRequest | None = None
    in_float: BenchRequest | None = None
    rule: InterleaveRule = COMPARE
    alone: bool = True
    same_bytes: bool = False
    images: Callable[[], NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class LatencyOutcome:
    """Latency, as far as it was measured.

    Attributes:
        skipped: why it was not; empty where it was.
        latency: of the artefact alone.
        identical: whether the artefact is the uncompressed one, so that nothing was compared.
        comparison: with the uncompressed network, in turns.
        against_float: how much faster than the same network in float32.
        layers: what each layer takes, where the runtime tells, and its backend.
        notes: sentences for the reader.
    """

    skipped: str = ""
    latency: LatencyResult | None = None
    identical: bool = False
    comparison: Comparison | None = None
    against_float: Ratio | None = None
    layers: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def documents(self) -> dict[str, Any]:
        """The files of ``bench/``."""
        comparison, ratio = self.comparison, self.against_float
        found: dict[str, Any] = {
            SKIPPED: {"reason": self.skipped} if self.skipped else None,
            LATENCY: None if self.latency is None else self.latency.to_dict(),
            IDENTICAL: {"identical": True} if self.identical else None,
            COMPARISON: None if comparison is None else comparison.to_dict(),
            REFERENCE: None if comparison is None else comparison.b.to_dict(),
            PRECISION: None if ratio is None else {"speedup": asdict(ratio)},
            LAYERS: self.layers,
        }
        return {name: data for name, data in found.items() if data is not None}

    def summary(self) -> list[str]:
        """What was found, in sentences."""
        if self.skipped:
            return [f"latency not measured: {self.skipped}"]
        told = []
        if self.latency is not None:
            found, threads = self.latency.summary, self.latency.threads
            told.append(
                f"p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, {threads} thread(s)"
            )
            if not self.latency.stable:
                told.append(f"not stable: {self.latency.reason}")
        told += self.notes
        if self.identical:
            told.append("the artefact is the uncompressed one, byte for byte: nothing to compare")
        if self.comparison is not None:
            ratio = self.comparison.speedup
            told.append(
                f"{ratio.value:.2f} x the uncompressed one ({ratio.low:.2f} to {ratio.high:.2f})"
            )
        if self.against_float is not None and self.against_float.high < 1:
            told.append(
                f"slower than the same network in fp32 here ({self.against_float.value:.2f} x): "
                'take precision = "fp32" or "auto"'
            )
        return told


def measure_latency(request: LatencyRequest) -> LatencyOutcome:
    """Time an artefact, alone and in turns with others, as far as that is asked and says something.

    Raises:
        StageFailed: a worker died, or did not answer within the time limit.
        InputRefused: a picture or an input array cannot be used.
        TargetUnavailable: a backend does not work here.
    """
    own, against, in_float = request.artefact, request.against, request.in_float
    latency = bench(own) if request.alone else None
    layers, notes = _layers(request)
    if against is None:
        return LatencyOutcome(latency=latency, layers=layers, notes=notes)
    if not request.same_bytes and same_artefact(own.artefact, against.artefact):
        return LatencyOutcome(latency=latency, identical=True, layers=layers, notes=notes)
    comparison = compare(own, against, request.rule, own.seed)
    ratio: Ratio | None = None
    if in_float is not None and not same_artefact(own.artefact, in_float.artefact):
        ratio = comparison.speedup
        if in_float != against:
            ratio = compare(own, in_float, request.rule, own.seed).speedup
    return LatencyOutcome("", latency, False, comparison, ratio, layers, notes)


def _layers(request: LatencyRequest) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """``layers.json``: what each layer takes, where the runtime tells; and why not."""
    from edgemtl.backends.layer_times import layer_times

    if request.images is None:
        return None, ()
    artefact = request.artefact.artefact
    try:
        found = layer_times(artefact, request.artefact.options, request.images())
    except StageFailed as error:  # the figures of the run do not need it
        return None, (error.message,)
    if not found:
        return None, ()
    layers = [layer.to_dict() for layer in found]
    return {"backend": artefact.backend, "layers": layers}, ()
