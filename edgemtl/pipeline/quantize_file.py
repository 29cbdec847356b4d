"""``quantize``: checkpoint or float32 ONNX file in, ONNX file in lower precision out."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgemtl.backends import registry
from edgemtl.backends.first_run import try_artefact
from edgemtl.backends.types import Artefact
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError
from edgemtl.exporting.metadata import read_metadata
from edgemtl.files import write_atomically, write_json
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.datasets import split_of
from edgemtl.pipeline.export import ExportRequest, export_model, require_same
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.pipeline.preflight import check_recipe
from edgemtl.pipeline.quantize import QuantizeOutcome, QuantizeRequest, quantize_graph
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import QUANTIZE
from edgemtl.targets import Target

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizeFile:
    """One checkpoint or ONNX file, to be quantised for one target.

    Attributes:
        model: checkpoint, or ONNX file of ours in float32.
        output: ONNX file to write.
        target: what it is for.
        recipe: resolved as ``compile`` resolves it (:func:`edgemtl.pipeline.defaults.recipe_for`).
        factory: ``package.module:function`` of the user's own network, or None.
    """

    model: Path
    output: Path
    target: Target
    recipe: Recipe
    factory: str | None = None


def quantize_file(asked: QuantizeFile) -> QuantizeOutcome:
    """Quantise, write the file and, beside it, ``OUTPUT.quantize.json`` with the whole story.

    Raises:
        UsageError: the recipe or an option makes no sense, or a bundle is given.
        InputRefused: the model or the pictures are refused.
        TargetUnavailable: the precision is to be measured, and the target's runtime is not here.
        StageFailed: nothing can be quantised, or the place cannot be written.
    """
    target, output = asked.target, asked.output
    # That the verb was called says more than the recipe's switch.
    section = asked.recipe.quantize.model_copy(update={"enabled": True})
    recipe = asked.recipe.model_copy(update={"quantize": section})
    check_recipe(recipe, target)
    if recipe.quantize.precision == "auto":
        registry.get(target.backend).require()
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        source, written = _graph(asked, Path(folder)), Path(folder) / "written.onnx"
        tasks, spec = read_metadata(source)
        images = split_of(recipe.data, recipe.data.calibration, tasks)
        request = QuantizeRequest(source, tasks, spec, target, recipe, images)
        outcome = quantize_graph(request, written)
        content = written.read_bytes()
    write_atomically(output, lambda stream: stream.write(content))
    write_json(output.with_name(f"{output.name}.{QUANTIZE}"), outcome.to_dict())
    for line in outcome.summary():
        _log.info(line)
    return outcome


def _graph(asked: QuantizeFile, folder: Path) -> Path:
    """The float32 graph, as ``compile`` would export it where the model is a checkpoint."""
    kind = kind_of(asked.model)
    if kind == "bundle":
        raise UsageError("quantize takes a checkpoint or an ONNX file", where=str(asked.model))
    if kind == "onnx":
        try_artefact(
            Artefact(registry.REFERENCE, "cpu", asked.model.parent, (asked.model.name,)),
            asked.model,
        )
        return asked.model
    network, data = load_network(asked.model, asked.factory), asked.recipe.data

    def calibration() -> Dataset:
        return split_of(data, data.calibration, network.selected(request.tasks))

    request = ExportRequest(network, asked.target, asked.recipe, calibration)
    exported = export_model(request, folder).exported
    if request.experts is None:  # a network whose experts were dropped or cut short is another one
        require_same(request, exported.path)
    return exported.path
