"""Latency as a goal of pruning: predicted by the table, measured on what was found.

Where the runtime tells what its layers take, the table is a sum of layers (latency/layer_table.py);
elsewhere it is made group by group (latency_table.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.processor import vector_floats
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.cost import CostModel, Keep
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.measure import Measurement, layer_table
from edgemtl.compress.latency.profiles import ProfileStore
from edgemtl.compress.latency.turns import (
    LayerTurns,
    RuntimeTurns,
    artefact_of,
    measurable,
    session_options,
    setting_of,
)
from edgemtl.compress.latency_table import LatencyTable, Timer, measure_table
from edgemtl.errors import InputRefused
from edgemtl.measure.latency import BenchRequest, InterleaveRule, StopRule, compare
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto

#: short turns: what is asked is a few per cent of the whole, over many groups
RULE = InterleaveRule(pairs=16, min_pairs=6, block_seconds=0.08, max_seconds=6.0)
WARM_UP = StopRule(warmup_seconds=0.3)
#: a table that is noisier than this is worth a warning
LOUD = 0.05


@dataclass(frozen=True)
class Measured:
    """A network that was found, timed in turns with the dense one.

    Attributes:
        predicted: its latency relative to the dense network's, by the table.
        ratio: the same, measured.
        half: half the width of the 95 % interval of ``ratio``.
    """

    predicted: float
    ratio: float
    half: float

    def to_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Measured:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            return Measured(float(data["predicted"]), float(data["ratio"]), float(data["half"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"a measured latency is not readable: {error!r}") from error


@dataclass
class LatencyModel:
    """Predicts the latency of any widths of one network, and measures what came of it.

    Attributes:
        table: of this network.
        dense_ms: latency of the network before the first round; goals are relative to it.
        timer: how two networks are compared.
        dense: the network before the first round.
        correction: measured over predicted latency, once something was measured.
    """

    table: LatencyTable | LayerTable
    dense_ms: float
    timer: Timer
    dense: MultiTaskNetwork
    correction: float = 1.0

    def predict(self, keep: Keep) -> float:
        """Latency in ms with these masks."""
        if all(bool(mask.all()) for mask in keep.values()):
            return self.table.dense_ms
        return self.table.predict(keep) * self.correction

    def predict_many(self, widths: Mapping[str, int | NDArray[np.int64]]) -> NDArray[np.float64]:
        """Latency in ms of several networks at once, (networks,).

        Args:
            widths: group -> its width, or one for each network; a group that is not named is whole.
        """
        return self.table.predict_many(widths) * self.correction

    def measure(self, network: MultiTaskNetwork, keep: Keep) -> Measured:
        """Time what these masks led to, in turns with the network before the first round."""
        _, ratio, half = self.timer(network, self.dense)
        return Measured(self.predict(keep) / self.dense_ms, ratio, half)

    def correct(self, measured: Measured) -> None:
        """Predict what was measured from now on."""
        self.correction *= measured.ratio / measured.predicted


class Latency:
    """What ``prune(latency=...)`` takes: a table per round, kept under ``folder``.

    Args:
        target: measured with its backend, on this machine.
        multiple: widths are multiples of it.
        folder: of the tables that are made group by group.
        threads: of the runtime.
        tell: progress.
        timer: how two networks are compared; the target's backend by default.
        cache: folder of what is known of layers, for all networks; ``folder`` by default.
        turns: how layers are timed; by the target's runtime by default. With a ``timer`` and
            without this no layers are.

    Raises:
        TargetUnavailable: this machine is not the target, or its backend does not work here.
    """

    def __init__(
        self,
        target: Target,
        multiple: int,
        folder: Path,
        threads: int = 1,
        tell: Callable[[str], None] = lambda line: None,
        timer: Timer | None = None,
        cache: Path | None = None,
        turns: LayerTurns | None = None,
    ) -> None:
        self.target, self.threads = target, threads
        self._multiple, self._folder, self._tell = multiple, folder, tell
        if timer is None and turns is None:
            turns = RuntimeTurns(target, threads)
        self._timer = timer or backend_timer(target, threads)
        self._turns, self._cache = turns, cache or folder
        self._first: tuple[MultiTaskNetwork, float] | None = None

    def model(
        self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup], cost: CostModel
    ) -> LatencyModel:
        """The table of a round's network; the first round's is what goals are relative to."""
        graph = None if self._turns is None else self._turns.dense_graph(network)
        table: LatencyTable | LayerTable
        if graph is None:
            table = self._by_groups(network, groups, cost)
        else:
            table = self._by_layers(network, groups, graph)
        self._tell(describe(table))
        if self._first is None:
            self._first = network, table.dense_ms
        return LatencyModel(table, self._first[1], self._timer, self._first[0])

    def _by_layers(
        self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup], graph: ModelProto
    ) -> LayerTable:
        assert self._turns is not None
        table = layer_table(
            Measurement(
                network,
                groups,
                graph,
                self._multiple,
                vector_floats(),
                self.target.name,
                self._turns,
                ProfileStore(self._cache, setting_of(self.target, self.threads)),
                self._tell,
            )
        )
        if self._first is None:
            return table
        # The machine may be faster or slower by now: only what is timed in turns compares.
        dense, ms = self._first
        return table.at(self._timer(network, dense)[1] * ms)

    def _by_groups(
        self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup], cost: CostModel
    ) -> LatencyTable:
        path = self._folder / f"latency-{self.target.name}-{weights_hash(network)[:12]}.json"
        return measure_table(
            network,
            groups,
            cost,
            self.target,
            self._multiple,
            self._timer,
            self.threads,
            path,
            self._tell,
            self._first,
        )


def describe(table: LatencyTable | LayerTable) -> str:
    """What the table is worth, in a sentence."""
    words = (
        f"latency table on {table.target}, {table.threads} thread(s): dense {table.dense_ms:.2f} "
        f"ms, noise {table.noise:.1%}"
    )
    if isinstance(table, LayerTable):
        words += f"; {table.cuts} cuts of the network measured"
        if table.error is not None:
            words += f" and predicted within {table.error:.1%} (median)"
    elif table.drowned:
        words += f"; {len(table.drowned)} of {len(table.ratios)} groups save less than the noise"
    if table.noise > LOUD:
        words += "; other work on this machine disturbs the measurement"
    return words


def backend_timer(target: Target, threads: int = 1) -> Timer:
    """Export, compile and time in turns on the target's backend.

    Raises:
        TargetUnavailable: this machine is not the target, or its backend does not work here.
    """
    measurable(target)
    options = session_options(target, threads)

    def request(network: MultiTaskNetwork, folder: Path) -> BenchRequest:
        return BenchRequest(artefact_of(network, target, folder), options, stop=WARM_UP)

    kept = tempfile.TemporaryDirectory(prefix="edgemtl-")
    known: dict[str, BenchRequest] = {}

    def timer(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        key = weights_hash(b)  # the dense network comes with every pair: compile it once
        if key not in known:
            known[key] = request(b, Path(kept.name) / key)
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as name:
            found = compare(request(a, Path(name)), known[key], RULE)
        speedup = found.speedup
        half = (1 / speedup.low - 1 / speedup.high) / 2
        return found.a.summary.p50_ms, 1 / speedup.value, half

    return timer
