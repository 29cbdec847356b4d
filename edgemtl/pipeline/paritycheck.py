"""``parity``: two forms of a network on the same real pictures."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.bundle.read import open_bundle
from edgemtl.data.calibration import embedded
from edgemtl.data.open import open_dataset
from edgemtl.data.preprocess import letterbox
from edgemtl.errors import InputRefused, UsageError
from edgemtl.export.parity import TOLERANCES, bisect, compare_outputs
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.loaded_model import LoadedModel, kind_of, open_model


def compare_files(
    a: Path,
    b: Path,
    data: Path | None,
    images: int,
    precision: str,
    find_layer: bool,
    factory: str | None = None,
) -> dict[str, Any]:
    """Compare per output and task; with ``find_layer`` name the first layer that differs.

    Raises:
        UsageError: unknown precision, or nothing in common to compare.
        InputRefused: a file or the data is refused.
    """
    if precision not in TOLERANCES:
        raise UsageError(
            f"unknown precision '{precision}'",
            where="--precision",
            hint=f"one of {', '.join(TOLERANCES)}",
        )
    with open_model(a, factory) as first, open_model(b, factory) as second:
        names = {task.name for task in second.tasks}
        tasks = [task for task in first.tasks if task.name in names]
        if not tasks or first.input_spec != second.input_spec:
            raise UsageError(
                "the two have no task in common or take different inputs", where=f"{a}, {b}"
            )
        inputs = _inputs(first, data, images)
        report = compare_outputs(
            _outputs(first, inputs), _outputs(second, inputs), tasks, TOLERANCES[precision]
        )
    found = report.to_dict()
    if find_layer:
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            reference = _layers(a, factory, Path(folder) / "a.onnx")
            other = _layers(b, factory, Path(folder) / "b.onnx")
            if isinstance(other, MultiTaskNetwork):
                raise UsageError("--bisect walks an ONNX file or a bundle", where=str(b))
            found["bisect"] = bisect(reference, other, inputs[0]).to_dict()
    return found


def _inputs(subject: LoadedModel, data: Path | None, count: int) -> list[NDArray[np.float32]]:
    kinds = {task.label_kind for task in subject.tasks}
    dataset = embedded(kinds, "val") if data is None else open_dataset(data, "val")
    canvases = [letterbox(s.image, subject.input_spec)[0] for s in islice(dataset, count)]
    if not canvases:
        raise InputRefused("no picture could be read", where=dataset.name)
    return [canvas[None] for canvas in canvases]


def _outputs(
    subject: LoadedModel, inputs: list[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    answers = [{k: np.array(v) for k, v in subject.run(images).items()} for images in inputs]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _layers(path: Path, factory: str | None, place: Path) -> Path | MultiTaskNetwork:
    """What bisection walks: the network, the ONNX file, or the ONNX file inside a bundle."""
    kind = kind_of(path)
    if kind == "checkpoint":
        return load_network(path, factory)
    if kind == "onnx":
        return path
    place.write_bytes(open_bundle(path).read("model.onnx"))
    return place
