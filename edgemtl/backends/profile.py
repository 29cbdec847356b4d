"""What a runtime's profiler tells of an artefact's layers; each backend has its own.

A runtime fuses, renames and reorders; each of its layers is led back to the nodes of the ONNX graph
that it came from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import StageFailed


@dataclass(frozen=True)
class LayerTime:
    """One layer of the runtime.

    Attributes:
        layer: the runtime's name; kind: what it computes.
        nodes: ONNX nodes that it came from, the main one first; none for what the runtime added.
        ms: median over the runs.
    """

    layer: str
    kind: str
    nodes: tuple[str, ...]
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"nodes": list(self.nodes)}


class Profile(ABC):
    """An artefact that is loaded with the profiler on."""

    @final
    def run(self, images: NDArray[np.float32], counts: bool = True) -> None:
        """Run once; what does not count (after a pause, say) is left out of the figures.

        Raises:
            StageFailed: the runtime failed.
        """
        with told():
            self._run(images, counts)

    @final
    def end(self, quantile: float = 0.5) -> tuple[LayerTime, ...]:
        """Time of every layer over the runs that count; not to be run again.

        Args:
            quantile: of the runs' times, in 0..1; the median by default. A lower one is less moved
                by what else the machine does.

        Raises:
            StageFailed: the runtime failed.
        """
        with told():
            return self._end(quantile)

    @abstractmethod
    def _run(self, images: NDArray[np.float32], counts: bool) -> None: ...

    @abstractmethod
    def _end(self, quantile: float) -> tuple[LayerTime, ...]: ...


@contextmanager
def told() -> Iterator[None]:
    """Whatever a runtime raises, as a sentence."""
    try:
        yield
    except StageFailed:
        raise
    except Exception as error:  # runtimes raise many kinds
        raise StageFailed(f"the layers could not be timed: {error}") from error
