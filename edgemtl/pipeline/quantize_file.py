"""``quantize``: checkpoint or float32 ONNX file in, ONNX file in lower precision out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.types import SessionOptions
from edgemtl.data.calibration import embedded
from edgemtl.data.concat import concatenate, thinned
from edgemtl.data.open import open_dataset
from edgemtl.errors import UsageError
from edgemtl.export.metadata import read_metadata
from edgemtl.files import write_atomically, write_json
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.pipeline.quantising import Job, write_precision


def quantize_file(
    model: Path,
    output: Path,
    target_name: str,
    config: Path | None,
    assignments: Sequence[str],
    factory: str | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Quantise, write the file and, beside it, ``OUTPUT.quantize.json`` with the whole story.

    Returns:
        As :func:`edgemtl.pipeline.quantising.write_precision`.

    Raises:
        UsageError: the recipe or an option makes no sense, or a bundle is given.
        InputRefused: the model or the pictures are refused.
        TargetUnavailable: the precision is to be measured, and the target's runtime is not here.
        StageFailed: nothing can be quantised, or the place cannot be written.
    """
    target = targets.load(target_name)
    recipe = recipe_for(target, config, assignments)
    if recipe.quantize.precision == "auto":
        registry.get(target.backend).require()
    kind = kind_of(model)
    if kind == "bundle":
        raise UsageError("quantize takes a checkpoint or an ONNX file", where=str(model))
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        source, written = model, Path(folder) / "written.onnx"
        if kind == "checkpoint":
            source = Path(folder) / "float.onnx"
            kept = None if recipe.model.tasks is None else list(recipe.model.tasks)
            export_file(model, source, target_name, recipe.export.opset, kept, factory)
        tasks, spec = read_metadata(source)
        data = recipe.data
        pictures = (
            concatenate([open_dataset(root, data.calibration, data.format) for root in data.root])
            if data.root
            else embedded({task.label_kind for task in tasks}, data.calibration)
        )
        hint = str(target.options.get("precision_hint", "f32"))
        job = Job(
            onnx=source,
            tasks=tasks,
            spec=spec,
            target=target,
            recipe=recipe,
            calibration=thinned(pictures, data.limit),
            real=bool(data.root),
            session=SessionOptions(recipe.bench.threads, hint),
            tell=tell,
        )
        found = write_precision(job, written)
        content = written.read_bytes()
    write_atomically(output, lambda stream: stream.write(content))
    write_json(output.with_name(f"{output.name}.quantize.json"), found)
    return found
