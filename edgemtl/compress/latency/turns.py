"""Two networks in turns on a runtime: their layers by its profiler, and the whole without it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgemtl.backends import registry
from edgemtl.backends.layer_times import LayerTime, can_profile, open_profile
from edgemtl.backends.types import Artefact
from edgemtl.compress.latency.stand import Stand
from edgemtl.exporting.network import SIMPLIFIED
from edgemtl.models.base import MultiTaskNetwork

if TYPE_CHECKING:
    from onnx import ModelProto

#: seconds of turns per cut, and turns at least and at most
SECONDS, FEWEST, MOST = 3.0, 3, 12
#: runs in each turn; the first of them, which finds the caches full of the other network, does not
#: count
RUNS = 4
#: of the times of all runs: other work only ever adds to them
QUANTILE = 0.25


@dataclass(frozen=True)
class Turns:
    """What two networks took in turns.

    Attributes:
        layers: of the first one and of the second one, ms.
        whole: whole inferences of both with the profiler off, ms.
    """

    layers: tuple[tuple[LayerTime, ...], tuple[LayerTime, ...]]
    whole: tuple[float, float]


class LayerTurns(Protocol):
    """What times layers."""

    def dense_graph(self, network: MultiTaskNetwork) -> ModelProto | None:
        """The dense network as it is run; None where its runtime tells no layer times."""

    def __call__(self, network: MultiTaskNetwork, dense: MultiTaskNetwork) -> Turns:
        """Time a network in turns with the dense one.

        Raises:
            StageFailed: a network cannot be exported, compiled or run.
        """


class RuntimeTurns:
    """Takes turns on a target's runtime, in this process.

    Args:
        stand: where and how.

    Raises:
        TargetUnavailable: this machine is not the target, or its backend does not work here.
    """

    def __init__(self, stand: Stand) -> None:
        stand.require()
        self._stand = stand
        self._folder = tempfile.TemporaryDirectory(prefix="edgemtl-")
        self._dense: tuple[MultiTaskNetwork, Artefact] | None = None

    def dense_graph(self, network: MultiTaskNetwork) -> ModelProto | None:
        """See :class:`LayerTurns`."""
        import onnx

        artefact = self._compiled(network)
        if not can_profile(artefact):
            return None
        return onnx.load(Path(self._folder.name) / SIMPLIFIED)

    def _compiled(self, network: MultiTaskNetwork) -> Artefact:
        if self._dense is None or self._dense[0] is not network:
            if self._dense is not None:
                self._folder.cleanup()
                self._folder = tempfile.TemporaryDirectory(prefix="edgemtl-")
            folder = Path(self._folder.name)
            self._dense = network, self._stand.artefact(network, folder)
        return self._dense[1]

    def __call__(self, network: MultiTaskNetwork, dense: MultiTaskNetwork) -> Turns:
        """See :class:`LayerTurns`."""
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as name:
            artefacts = (
                self._stand.artefact(network, Path(name)),
                self._compiled(dense),
            )
            return self._turns(artefacts)

    def _turns(self, artefacts: tuple[Artefact, Artefact]) -> Turns:
        backend, options = registry.get(self._stand.target.backend), self._stand.options
        sessions = [backend.load(artefact, options) for artefact in artefacts]
        profiles = [open_profile(artefact, options) for artefact in artefacts]
        images = np.random.default_rng(0).standard_normal(sessions[0].input_shape, dtype=np.float32)
        began = time.perf_counter()
        for session, profile in zip(sessions, profiles, strict=True):
            session.run(images)
            profile.run(images, counts=False)
        once = time.perf_counter() - began
        turns = min(max(int(SECONDS / (once * RUNS)), FEWEST), MOST)
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(turns):
            # Forth and back, so that a machine that gets slower steadily favours neither.
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            for which in order:
                for run in range(RUNS):
                    profiles[which].run(images, counts=run > 0)
                for run in range(RUNS):
                    started = time.perf_counter()
                    sessions[which].run(images)
                    if run > 0:
                        taken[which].append((time.perf_counter() - started) * 1e3)
        for session in sessions:
            session.close()
        layers = profiles[0].end(QUANTILE), profiles[1].end(QUANTILE)
        smaller, dense = (float(np.quantile(ms, QUANTILE)) for ms in taken)
        return Turns(layers, (smaller, dense))
