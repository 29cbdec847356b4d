"""A network to one simplified ONNX file that explains itself: the chain that all callers take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.exporting.metadata import write_metadata
from edgemtl.exporting.onnx_export import ExportResult, export_onnx
from edgemtl.exporting.simplify import SimplifyResult, simplify
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.targets import Target

#: what is in the folder: the graph as the exporter wrote it, and simplified
RAW, SIMPLIFIED = "exported.onnx", "model.onnx"


@dataclass(frozen=True)
class ExportedNetwork:
    """What was written.

    Attributes:
        raw: as the exporter wrote it.
        simplified: the file to compile.
    """

    raw: ExportResult
    simplified: SimplifyResult

    @property
    def path(self) -> Path:
        """The simplified graph, with its tasks and its input in its properties."""
        return self.simplified.path

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``export.json``."""
        return {**self.raw.to_dict(), "simplified": self.simplified.to_dict()}


def export_alone(
    network: MultiTaskNetwork,
    target: Target,
    path: Path,
    tasks: Sequence[str] | None = None,
    *,
    batch: int = 1,
) -> None:
    """The simplified graph of :func:`export_network` as this one file.

    Raises:
        UsageError, StageFailed: as there.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-", dir=path.parent) as place:
        export_network(network, target, Path(place), tasks, batch=batch).path.replace(path)


def export_network(
    network: MultiTaskNetwork,
    target: Target,
    folder: Path,
    tasks: Sequence[str] | None = None,
    *,
    batch: int = 1,
) -> ExportedNetwork:
    """Export as the target reads it, simplify, and write down what the outputs mean.

    Args:
        network: left as it is.
        target: its opset, and how deformable convolutions and mixtures of experts are written.
        folder: exists; ``exported.onnx`` and ``model.onnx`` are written there.
        tasks: to keep (with those they require); all by default.
        batch: images per run.

    Raises:
        UsageError: a task the network does not have.
        StageFailed: the network cannot be exported or simplified, or the place cannot be written.
    """
    raw = export_onnx(
        network,
        folder / RAW,
        opset=target.opset,
        tasks=tasks,
        deformable=target.deformable,
        batch=batch,
        experts=target.experts,
    )
    simplified = simplify(raw.path, folder / SIMPLIFIED)
    write_metadata(simplified.path, network.selected(tasks), network.input_spec)
    return ExportedNetwork(raw, simplified)
