"""``run``: a network in any form on one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.data.images import ImageRefused, read_image
from edgemtl.errors import InputRefused
from edgemtl.models.diagnostics import meaning, raised
from edgemtl.pipeline.loaded_model import open_model
from edgemtl.pipeline.predictions import predict


def run_on_image(
    model: Path,
    image: Path,
    output: Path,
    factory: str | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Run, draw into a PNG, and describe the results; of one task only where it is named.

    Returns:
        ``tasks``: per task what it found, as plain data; ``summary``: the same in a few words;
        ``notes``: what a reader must know.

    Raises:
        InputRefused: the model or the picture is refused.
        StageFailed: the PNG cannot be written.
    """
    try:
        pixels = read_image(image)
    except ImageRefused as error:
        raise InputRefused(f"this image {error}", where=str(image)) from error
    with open_model(model, factory, task=task) as loaded:
        tasks = loaded.tasks
        found = predict(pixels, tasks, loaded.input_spec, loaded.run)
    found.write(output)
    outputs, decoded = found.outputs, found.decoded
    described = {task.name: task.describe(decoded) for task in tasks}
    return {
        "image": str(image),
        "drawn": str(output),
        "tasks": described,
        "summary": {name: _few_words(value) for name, value in described.items()},
        "notes": [
            f"'{name}' is {value:g}: the picture {meaning(name)}"
            for name, value in raised(outputs).items()
        ],
    }


def _few_words(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} found"
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in list(value.items())[:4])
    return str(value)
