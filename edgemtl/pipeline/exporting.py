"""``export``: one ONNX file, simplified and checked against the network it came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgemtl.files import write_atomically
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.export import ExportRequest, export_model, require_same
from edgemtl.recipes import ExportSection, ModelSection, Recipe
from edgemtl.targets import Target


def export_file(
    model: Path,
    output: Path,
    target: Target,
    opset: int | None = None,
    tasks: list[str] | None = None,
    factory: str | None = None,
) -> dict[str, Any]:
    """Export, simplify, compare with torch on a noise picture.

    Raises:
        ParityFailed: the ONNX file computes something else; it is not left behind.
        InputRefused, UsageError, StageFailed: as the steps say.
    """
    names = None if tasks is None else tuple(tasks)
    recipe = Recipe(model=ModelSection(tasks=names), export=ExportSection(opset=opset))
    request = ExportRequest(load_network(model, factory), target, recipe)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        exported = export_model(request, Path(folder)).exported
        require_same(request, exported.path)
        data = exported.path.read_bytes()
    write_atomically(output, lambda stream: stream.write(data))
    facts = exported.raw.to_dict()
    facts.pop("modules")
    return facts | {"file": str(output)}
