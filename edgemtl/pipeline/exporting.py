"""``export``: one ONNX file, simplified and checked against the network it came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.export.metadata import write_metadata
from edgemtl.export.onnx_export import export_onnx
from edgemtl.export.parity import check_chain, onnx_runner
from edgemtl.export.simplify import simplify
from edgemtl.files import write_atomically
from edgemtl.measure.accuracy import network_runner
from edgemtl.models.checkpoint import load_network


def export_file(
    model: Path,
    output: Path,
    target_name: str,
    opset: int | None = None,
    tasks: list[str] | None = None,
    factory: str | None = None,
) -> dict[str, Any]:
    """Export, simplify, compare with torch on a noise picture.

    Raises:
        ParityFailed: the ONNX file computes something else; it is not left behind.
        InputRefused, UsageError, StageFailed: as the steps say.
    """
    target = targets.load(target_name)
    network = load_network(model, factory)
    selected = network.selected(tasks)
    names = [task.name for task in selected]
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        raw = Path(folder) / "exported.onnx"
        exported = export_onnx(
            network,
            raw,
            opset=opset or target.opset,
            tasks=names,
            deformable=target.deformable,
            experts=target.experts,
        )
        simple = Path(folder) / "model.onnx"
        simplify(raw, simple)
        write_metadata(simple, selected, network.input_spec)
        check_chain(
            {"torch": network_runner(network, names), "onnx": onnx_runner(simple)},
            [network.example_input().numpy()],
            selected,
        ).require()
        data = simple.read_bytes()
        write_atomically(output, lambda stream: stream.write(data))
    facts = exported.to_dict()
    facts.pop("modules")
    return facts | {"file": str(output)}
