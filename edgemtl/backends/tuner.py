"""Measuring which way of computing an operator is fastest: what a backend that tunes offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.targets import Target


@dataclass(frozen=True)
class Measurement:
    """One way of computing one operator, timed.

    Attributes:
        operator: key that tells one operator from another.
        processor: the compiler's name of the processor that it is for.
        machine: name of the processor that measured it; empty where nobody noted it.
        seconds: the shortest run.
        data: the record as it is stored, plain.
    """

    operator: str
    processor: str
    machine: str
    seconds: float
    data: Mapping[str, Any]


class Tuner(ABC):
    """Measures a network's operators here; a backend with ``capabilities.tunes`` has one.

    What is measured goes into ``[[options.tiles]]`` of a target, where the backend finds it.
    """

    @abstractmethod
    def processor(self, target: Target) -> str:
        """The compiler's name of this machine's processor, as the target's code is made for it."""

    @abstractmethod
    def measure(
        self,
        onnx: Path,
        target: Target,
        machine: str,
        known: Collection[str],
        wanted: Collection[str] | None,
        tiles: int,
        seconds: float,
    ) -> tuple[list[str], Iterator[list[Measurement]]]:
        """The network's operators by key, the largest first, and what is measured here, one by one.

        Args:
            onnx: the network.
            target: that this machine is.
            machine: name of its processor, for the records.
            known: keys of operators that are not measured.
            wanted: keys of those that are; None for all.
            tiles: ways measured per operator, the likeliest first.
            seconds: of timing per operator.

        Raises:
            StageFailed: the compiler failed, died or hung; so do the measurements.
        """

    @abstractmethod
    def told(self, found: Sequence[Measurement]) -> str:
        """The fastest of one operator's measurements, for people."""

    @abstractmethod
    def parse(self, data: Any) -> Measurement:
        """A stored record.

        Raises:
            ValueError: it is none.
        """


def fastest(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The fastest of every operator, in the order of their keys; of equals the first."""
    best: dict[str, Measurement] = {}
    for one in measurements:
        if one.operator not in best or one.seconds < best[one.operator].seconds:
            best[one.operator] = one
    return [best[key] for key in sorted(best)]
