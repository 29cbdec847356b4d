"""Latency as a goal of pruning: predicted by a table of layers, measured on what was found.

Where the runtime tells what its layers take the table is made of that (latency/measure.py),
elsewhere of the latencies of a few whole networks (latency/whole.py).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.processor import vector_floats
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.cost import Keep
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.measure import Measurement, layer_table
from edgemtl.compress.latency.profiles import ProfileStore
from edgemtl.compress.latency.stand import Precision, Stand
from edgemtl.compress.latency.turns import LayerTurns, RuntimeTurns
from edgemtl.compress.latency.whole import Timer, whole_table
from edgemtl.errors import InputRefused
from edgemtl.measure.latency import compare
from edgemtl.measure.results import BenchRequest, InterleaveRule, StopRule
from edgemtl.measure.timed import bench_request
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

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

    table: LayerTable
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
    """What ``prune(latency=...)`` takes: makes the table of each round.

    Args:
        target: measured with its backend, on this machine.
        multiple: widths are multiples of it.
        folder: of what was measured, for all networks; a run that was killed goes on from there.
        threads: of the runtime.
        timer: how two networks are compared; by the target's backend by default.
        turns: how layers are timed; by the target's runtime by default, where it tells what they
            take. With a ``timer`` and without this whole networks are timed.
        precision: that networks are timed in, that of the dense one too.

    Raises:
        TargetUnavailable: this machine is not the target, or its backend does not work here.
    """

    def __init__(
        self,
        target: Target,
        multiple: int,
        folder: Path,
        threads: int = 1,
        timer: Timer | None = None,
        turns: LayerTurns | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.target, self.threads, self.precision = target, threads, precision
        self._stand = Stand(target, threads, precision)
        self._multiple, self._folder = multiple, folder
        if timer is None and turns is None:
            turns = RuntimeTurns(self._stand)
        self._turns = turns
        self._timer = timer or backend_timer(self._stand)
        self._first: tuple[MultiTaskNetwork, float] | None = None

    def model(self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> LatencyModel:
        """The table of a round's network; the first round's is what goals are relative to.

        Raises:
            TargetUnavailable: the target's backend does not work here.
            StageFailed: a network cannot be exported, compiled or run.
        """
        graph = None if self._turns is None else self._turns.dense_graph(network)
        asked = Measurement(
            network,
            groups,
            self._exported(network) if graph is None else graph,
            self._multiple,
            vector_floats(),
            self.target.name,
            self._turns,
            ProfileStore(self._folder, self._stand.setting),
        )
        table = whole_table(asked, self._timer) if graph is None else layer_table(asked)
        _log.info(describe(table))
        if self._first is None:
            self._first = network, table.dense_ms
        else:
            # The machine may be faster or slower by now: only what is timed in turns compares.
            dense, ms = self._first
            table = table.at(self._timer(network, dense)[1] * ms)
        return LatencyModel(table, self._first[1], self._timer, self._first[0])

    def _exported(self, network: MultiTaskNetwork) -> ModelProto:
        import onnx

        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            return onnx.load(self._stand.graph(network, Path(folder)))


def describe(table: LayerTable) -> str:
    """What the table is worth, in a sentence."""
    words = (
        f"latency table on {table.target}, {table.precision}, {table.threads} thread(s): dense "
        f"{table.dense_ms:.2f} ms, noise {table.noise:.1%}; {table.cuts} cuts of "
        "the network measured"
    )
    if table.error is not None:
        words += f" and predicted within {table.error:.1%} (median)"
    if table.noise > LOUD:
        words += "; other work on this machine disturbs the measurement"
    return words


def backend_timer(stand: Stand, rule: InterleaveRule = RULE) -> Timer:
    """Export, compile and time in turns on the target's backend, for as long as the rule says.

    Raises:
        TargetUnavailable: this machine is not the target, or its backend does not work here.
    """
    stand.require()

    def request(network: MultiTaskNetwork, folder: Path) -> BenchRequest:
        return bench_request(stand.artefact(network, folder), stand.options, WARM_UP)

    kept = tempfile.TemporaryDirectory(prefix="edgemtl-")
    known: dict[str, BenchRequest] = {}

    def timer(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        key = weights_hash(b)  # the dense network comes with every pair: compile it once
        if key not in known:
            known[key] = request(b, Path(kept.name) / key)
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as name:
            found = compare(request(a, Path(name)), known[key], rule)
        speedup = found.speedup
        half = (1 / speedup.low - 1 / speedup.high) / 2
        return found.a.summary.p50_ms, 1 / speedup.value, half

    return timer
