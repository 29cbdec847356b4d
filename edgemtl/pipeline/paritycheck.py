"""``parity``: two forms of a network on the same real pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.bundle.read import open_bundle
from edgemtl.errors import UsageError
from edgemtl.exporting.parity import TOLERANCES
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.datasets import first_images, labelled
from edgemtl.pipeline.loaded_model import LoadedModel, kind_of, open_model
from edgemtl.pipeline.parity import Compared, Side, compare_sides
from edgemtl.targets import Target


@dataclass(frozen=True)
class ParityFiles:
    """Two files to compare.

    Attributes:
        a, b: the reference, and what is compared with it: checkpoint, ONNX file or bundle.
        data: folders with pictures; the embedded set without any.
        split: of these.
        images: real pictures to compare on.
        precision: whose tolerance holds.
        bisect: also find the layer or the runtime where the two part.
        factory: ``package.module:function`` of the user's own network, or None.
        target: run ONNX files in this target's runtime; in ONNX Runtime by default.
    """

    a: Path
    b: Path
    data: Sequence[Path] = ()
    split: str = "val"
    images: int = 4
    precision: str = "fp32"
    bisect: bool = False
    factory: str | None = None
    target: Target | None = None


def compare_files(asked: ParityFiles) -> Compared:
    """Compare per output and task; with ``bisect`` find the first layer that differs.

    Raises:
        UsageError: unknown precision, or nothing in common to compare.
        InputRefused: a file or the data is refused.
        TargetUnavailable: a runtime is not here.
    """
    if asked.precision not in TOLERANCES:
        raise UsageError(
            f"unknown precision '{asked.precision}'",
            where="--precision",
            hint=f"one of {', '.join(TOLERANCES)}",
        )
    if asked.bisect and kind_of(asked.b) == "checkpoint":
        raise UsageError("--bisect walks an ONNX file or a bundle", where=str(asked.b))
    with (
        tempfile.TemporaryDirectory(prefix="edgemtl-") as folder,
        open_model(asked.a, asked.factory, target=asked.target) as first,
        open_model(asked.b, asked.factory, target=asked.target) as second,
    ):
        names = {task.name for task in second.tasks}
        tasks = [task for task in first.tasks if task.name in names]
        if not tasks or first.input_spec != second.input_spec:
            raise UsageError(
                "the two have no task in common or take different inputs",
                where=f"{asked.a}, {asked.b}",
            )
        dataset = labelled(asked.data, asked.split, first.tasks)
        inputs = [image[None] for image in first_images(dataset, first.input_spec, asked.images)]
        sides = [
            _side(path, model, asked.factory, Path(folder) / name)
            for path, model, name in ((asked.a, first, "a.onnx"), (asked.b, second, "b.onnx"))
        ]
        tolerance = TOLERANCES[asked.precision]
        return compare_sides(
            sides[0], sides[1], inputs, tasks, tolerance, asked.bisect, Path(folder)
        )


def _side(path: Path, model: LoadedModel, factory: str | None, place: Path) -> Side:
    """What runs, and what bisection walks: the network, the ONNX file, or a bundle's."""
    layers: Path | MultiTaskNetwork = path
    if model.kind == "checkpoint":
        layers = load_network(path, factory)
    elif model.kind == "bundle":
        layers = place
        place.write_bytes(open_bundle(path).read("model.onnx"))
    backend = None if model.backend is None else registry.get(model.backend)
    return Side(model.run, layers, backend)
