"""Width -> milliseconds per channel group, measured where the network is going to run.

Every group is cut alone to a few widths and the whole network is timed against the dense one, in
turns, so that what the table holds is what cutting that group saves of the whole, consumers
included. A measured ratio has an interval; within it the table takes the value nearest to what the
multiply-accumulates suggest, so that a group whose saving drowns in noise is worth what it computes
and not what chance said. The latency of any widths is predicted as the dense latency times the
product of the groups' ratios: two groups that share a layer each save a share of what the other
left. How good that is shows when the network that was found is measured (latency_model.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths
from edgemtl.compress.cost import CostModel, Keep
from edgemtl.compress.latency.durations import duration
from edgemtl.errors import InputRefused
from edgemtl.files import write_json
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.targets import Target

#: widths measured besides the full one, as shares of it; each costs about 8 s per group
SHARES = (0.5,)


@dataclass(frozen=True)
class LatencyTable:
    """Measured latencies.

    Attributes:
        target: name of the target.
        dense_ms: median latency of the dense network.
        ratios: group -> ((width, latency relative to the dense network), ...), rising widths, the
            full width with 1 included.
        measured: group -> ((width, measured ratio, half of its 95 % interval), ...), as it came.
        network: hash of the network's weights.
        noise: half the width of the dense network's interval against itself, as a share; smaller
            differences in the table mean nothing.
        threads: of the runtime.
    """

    target: str
    dense_ms: float
    ratios: Mapping[str, tuple[tuple[int, float], ...]]
    measured: Mapping[str, tuple[tuple[int, float, float], ...]]
    network: str
    noise: float
    threads: int

    def predict(self, keep: Keep) -> float:
        """Latency in ms with these masks; linear between measured widths and below them."""
        return float(self.predict_many({name: int(mask.sum()) for name, mask in keep.items()})[0])

    def predict_many(self, widths: Mapping[str, int | NDArray[np.int64]]) -> NDArray[np.float64]:
        """Latency in ms of several networks at once, (networks,).

        Args:
            widths: group -> its width, or one for each network; a group that is not named is whole.
        """
        total = np.array([self.dense_ms])
        for name, width in widths.items():
            points = self.ratios.get(name, ())
            if len(points) > 1:
                total = total * [_on_line(points, int(one)) for one in np.atleast_1d(width)]
        return total

    @property
    def drowned(self) -> tuple[str, ...]:
        """Groups none of whose measured savings is clear of its own interval."""
        return tuple(
            name
            for name, points in self.measured.items()
            if points and all(ratio + half >= 1 for _, ratio, half in points)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "target": self.target,
            "dense_ms": self.dense_ms,
            "ratios": {name: [list(p) for p in points] for name, points in self.ratios.items()},
            "measured": {name: [list(p) for p in points] for name, points in self.measured.items()},
            "network": self.network,
            "noise": self.noise,
            "threads": self.threads,
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
                {
                    str(name): tuple(
                        (int(w), float(ratio), float(half)) for w, ratio, half in points
                    )
                    for name, points in data["measured"].items()
                },
                str(data["network"]),
                float(data["noise"]),
                int(data["threads"]),
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
    cost: CostModel,
    target: Target,
    multiple: int,
    timer: Timer,
    threads: int = 1,
    path: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
    reference: tuple[MultiTaskNetwork, float] | None = None,
) -> LatencyTable:
    """Time every group at a few widths.

    Args:
        network: the dense network.
        groups: its groups.
        cost: its cost model.
        target: what ``timer`` times on.
        multiple: widths are multiples of it.
        timer: how two networks are compared.
        threads: of the runtime, for the record.
        path: where the table is written after every group; one that is there already, of this
            network and target, is gone on with.
        tell: progress.
        reference: another network and its latency in ms; ``dense_ms`` is then relative to it. The
            machine may be faster or slower by now than it was then: only what is timed in turns
            compares.

    Raises:
        TargetUnavailable: the target's backend does not work here.
        StageFailed: a network cannot be exported or compiled.
        InputRefused: the file is no table.
    """
    table = _stored(path, target, network, threads)
    if table is None:
        if reference is None:
            dense_ms, _, noise = timer(network, network)
        else:
            _, ratio, noise = timer(network, reference[0])
            dense_ms = ratio * reference[1]
        table = LatencyTable(target.name, dense_ms, {}, {}, weights_hash(network), noise, threads)
    left = [group for group in groups if group.name not in table.ratios]
    whole = cost.of({}).macs
    started = time.monotonic()
    told = False
    for number, group in enumerate(left):
        points, measured = {group.width: 1.0}, []
        allowed = snapped_widths(group, multiple)
        for share in SHARES:
            width = min(allowed, key=lambda w: abs(w - share * group.width))
            if width in points:
                continue
            keep = {group.name: torch.arange(group.width) < width}
            _, ratio, half = timer(cut(network, keep, groups), network)
            measured.append((width, ratio, half))
            counted = cost.of(keep).macs / whole
            # Fewer channels take no more time: anything else is noise, and would mislead.
            points[width] = min(max(counted, ratio - half), ratio + half, 1.0)
        table = replace(
            table,
            ratios={**table.ratios, group.name: tuple(sorted(points.items()))},
            measured={**table.measured, group.name: tuple(measured)},
        )
        if path is not None:
            write_json(path, table.to_dict())
        others = len(left) - number - 1
        if measured and others and not told:  # a group with nothing to measure tells nothing
            seconds = (time.monotonic() - started) * others
            told = True
            tell(f"measuring latency group by group on {target.name}: about {duration(seconds)}")
    return table


def _stored(
    path: Path | None, target: Target, network: MultiTaskNetwork, threads: int
) -> LatencyTable | None:
    """The table at ``path``, if there is one of this network, target and number of threads."""
    if path is None or not path.is_file():
        return None
    try:
        found = LatencyTable.from_dict(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise InputRefused("the latency table is not JSON", where=str(path)) from error
    wanted = (target.name, weights_hash(network), threads)
    return found if (found.target, found.network, found.threads) == wanted else None
