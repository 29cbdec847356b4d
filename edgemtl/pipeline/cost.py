"""What a network costs: its float32 graph, the artefact made from it, and the torch network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.backends.artefacts import artefact_hashes
from edgemtl.backends.types import Artefact
from edgemtl.exporting.cost import Cost, count_cost
from edgemtl.files import sha256_file
from edgemtl.record.run_record import COST


@dataclass(frozen=True)
class CostRequest:
    """A graph and what was made from it.

    Attributes:
        graph: the float32 ONNX file.
        artefact: compiled from it, or from ``lowered``.
        size_bytes: of the artefact.
        lowered: the graph that the artefact was compiled from, where that is another file.
        network: ``macs`` and ``parameters`` of the torch network, as ``inspect`` counts them.
    """

    graph: Path
    artefact: Artefact
    size_bytes: int
    lowered: Path | None = None
    network: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CostOutcome:
    """What was counted.

    Attributes:
        graph: multiply-accumulates, parameters and bytes of activations of the float32 graph.
        size_bytes: of the artefact made from it.
        artefact_sha256: file of the artefact -> hash.
        lower_precision: whether the artefact is; the bytes of its activations are not known then.
        network: ``macs`` and ``parameters`` of the torch network, as ``inspect`` counts them.
    """

    graph: Cost
    size_bytes: int
    artefact_sha256: Mapping[str, str]
    lower_precision: bool
    network: Mapping[str, Any] | None

    def documents(self) -> dict[str, Any]:
        """``cost.json``."""
        data = self.graph.to_dict()
        if self.lower_precision:
            del data["activation_bytes"], data["peak_activation_bytes"]
        own = {"size_bytes": self.size_bytes, "artefact_sha256": dict(self.artefact_sha256)}
        return {COST: {**data, **own, "network": self.network}}

    def summary(self) -> list[str]:
        """In a sentence."""
        graph, own = self.graph, self.network
        told = [f"{graph.macs / 1e6:,.1f} M MACs, {graph.parameters:,} parameters"]
        if own is not None and (own["macs"], own["parameters"]) != (graph.macs, graph.parameters):
            told.append(
                f"the network before norms are folded and tables stored: {own['macs'] / 1e6:,.1f} "
                f"M MACs, {own['parameters']:,} parameters"
            )
        return told


def network_cost(request: CostRequest) -> CostOutcome:
    """Count what the graph computes and what the artefact takes.

    Raises:
        StageFailed: the file is no ONNX graph, or a shape is not known.
    """
    graph, lowered = request.graph, request.lowered
    # A quantiser that changed nothing leaves the bytes as they were.
    lower = lowered is not None and sha256_file(lowered) != sha256_file(graph)
    hashes = artefact_hashes(request.artefact)
    return CostOutcome(count_cost(graph), request.size_bytes, hashes, lower, request.network)
