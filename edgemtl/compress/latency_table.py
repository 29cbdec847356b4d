"""Width -> milliseconds per channel group, measured where the network is going to run.

Every group is cut alone to a few widths and the whole network is timed against the dense one, in
turns, so that what the table holds is what cutting that group saves of the whole, consumers
included. The latency of any widths is predicted as the dense latency times the product of the
groups' ratios: two groups that share a layer each save a share of what the other left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl.compress.cost import Keep
from edgemtl.compress.cut import cut
from edgemtl.compress.groups import ChannelGroup, snapped_widths
from edgemtl.errors import InputRefused
from edgemtl.files import write_json
from edgemtl.measure.latency import BenchRequest, InterleaveRule, compare
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.targets import Target

#: widths measured besides the full one, as shares of it; each costs about 8 s per group
SHARES = (0.5,)
#: short turns: what is asked is a few per cent of the whole, over many groups
RULE = InterleaveRule(pairs=16, min_pairs=6, block_seconds=0.08, max_seconds=6.0)


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies.

    Attributes:
        target: name of the target.
        dense_ms: median latency of the dense network.
        ratios: group -> ((width, latency relative to the dense network), ...), rising widths, the
            full width with 1 included.
        network: hash of the network's weights.
        noise: half the width of the dense network's interval against itself, as a share; smaller
            differences in the table mean nothing.
    """

    target: str
    dense_ms: float
    ratios: Mapping[str, tuple[tuple[int, float], ...]]
    network: str
    noise: float

    def predict(self, keep: Keep) -> float:
        """Latency in ms with these masks; linear between measured widths and below them."""
        total = self.dense_ms
        for name, mask in keep.items():
            points = self.ratios.get(name, ())
            if len(points) > 1:
                total *= _on_line(points, int(mask.sum()))
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "target": self.target,
            "dense_ms": self.dense_ms,
            "ratios": {name: [list(p) for p in points] for name, points in self.ratios.items()},
            "network": self.network,
            "noise": self.noise,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LatencyTable:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            return LatencyTable(
                str(data["target"]),
                float(data["dense_ms"]),
                {
                    str(name): tuple((int(width), float(ratio)) for width, ratio in points)
                    for name, points in data["ratios"].items()
                },
                str(data["network"]),
                float(data["noise"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a latency table is not readable: {error!r}") from error


def _on_line(points: Sequence[tuple[int, float]], width: int) -> float:
    """The ratio at a width; never below 1 % of the network."""
    widths, ratios = zip(*points, strict=True)
    if width >= widths[0]:
        return float(np.interp(width, widths, ratios))
    slope = (ratios[1] - ratios[0]) / (widths[1] - widths[0])
    return max(float(ratios[0] + slope * (width - widths[0])), 0.01)


#: times one network against another: (a, b) -> (median ms of a, a's latency relative to b, half
#: width of the interval)
Timer = Callable[[MultiTaskNetwork, MultiTaskNetwork], tuple[float, float, float]]


def measure_table(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    target: Target,
    multiple: int,
    timer: Timer | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> LatencyTable:
    """Time every group at a few widths.

    Args:
        network: the dense network.
        groups: its groups.
        target: measured with its backend, on this machine.
        multiple: widths are multiples of it.
        timer: how two networks are compared; the target's backend by default.
        tell: progress.

    Raises:
        TargetUnavailable: the target's backend does not work here.
        StageFailed: a network cannot be exported or compiled.
    """
    time_pair = timer or backend_timer(target)
    dense_ms, _, noise = time_pair(network, network)
    ratios: dict[str, tuple[tuple[int, float], ...]] = {}
    for number, group in enumerate(groups):
        points = {group.width: 1.0}
        allowed = snapped_widths(group, multiple)
        for share in SHARES:
            width = min(allowed, key=lambda w: abs(w - share * group.width))
            if width in points:
                continue
            keep = torch.arange(group.width) < width
            _, ratio, _ = time_pair(cut(network, {group.name: keep}, groups), network)
            # Fewer channels take no more time: anything else is noise, and would mislead.
            points[width] = min(ratio, 1.0)
        ratios[group.name] = tuple(sorted(points.items()))
        tell(f"latency {number + 1}/{len(groups)} {group.name}: {ratios[group.name][0]}")
    return LatencyTable(target.name, dense_ms, ratios, weights_hash(network), noise)


def cached_table(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    target: Target,
    multiple: int,
    path: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> LatencyTable:
    """The table stored at ``path`` if it is of this network and target, else a new one."""
    import json

    if path.is_file():
        try:
            found = LatencyTable.from_dict(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise InputRefused("the latency table is not JSON", where=str(path)) from error
        if found.target == target.name and found.network == weights_hash(network):
            return found
    found = measure_table(network, groups, target, multiple, tell=tell)
    write_json(path, found.to_dict())
    return found


def provider(
    target: Target, multiple: int, folder: Path, tell: Callable[[str], None] = lambda line: None
) -> Callable[[MultiTaskNetwork, Sequence[ChannelGroup]], Callable[[Keep], float]]:
    """What ``prune(latency=...)`` takes: a table per network, kept under ``folder``."""

    def make(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> Callable[[Keep], float]:
        path = folder / f"latency-{target.name}-{weights_hash(network)[:12]}.json"
        return cached_table(network, groups, target, multiple, path, tell).predict

    return make


def backend_timer(target: Target, threads: int = 1) -> Timer:
    """Export, compile and time in turns on the target's backend."""
    from edgemtl.backends import registry
    from edgemtl.backends.base import SessionOptions
    from edgemtl.export.onnx_export import export_onnx
    from edgemtl.export.simplify import simplify

    backend = registry.get(target.backend)
    backend.require()

    def request(network: MultiTaskNetwork, folder: Path) -> BenchRequest:
        made = folder / "artefact"
        made.mkdir(parents=True)
        export_onnx(network, folder / "raw.onnx", opset=target.opset, deformable=target.deformable)
        simplify(folder / "raw.onnx", folder / "model.onnx")
        artefact = backend.compile(folder / "model.onnx", target, made)
        return BenchRequest(artefact, SessionOptions(threads=threads))

    kept = tempfile.TemporaryDirectory(prefix="edgemtl-")
    known: dict[str, BenchRequest] = {}

    def timer(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        key = weights_hash(b)  # the dense network comes with every pair: compile it once
        if key not in known:
            known[key] = request(b, Path(kept.name) / key)
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as name:
            found = compare(request(a, Path(name)), known[key], RULE)
        speedup = found.speedup
        half = (speedup.high - speedup.low) / 2 / speedup.value
        return found.a.summary.p50_ms, 1 / speedup.value, half

    return timer


def compare_prediction(table: LatencyTable, keep: Keep, measured_ratio: float) -> dict[str, float]:
    """Predicted against measured latency of the network cut to these masks, for the report."""
    predicted = table.predict(keep) / table.dense_ms
    return {
        "predicted_ratio": predicted,
        "measured_ratio": measured_ratio,
        "error": predicted / measured_ratio - 1,
    }
