"""The parity stage: nothing is timed or shipped that does not compute the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.exporting.network import RAW
from edgemtl.exporting.parity import onnx_runner
from edgemtl.files import read_json
from edgemtl.measure.accuracy import network_runner
from edgemtl.pipeline.parity import (
    LoweredGraph,
    ParityOutcome,
    ParityRequest,
    as_written,
    check_parity,
)
from edgemtl.pipeline.routed_set import CANDIDATES, Dispatched, folded, routed_folder
from edgemtl.pipeline.stage import ONNX, Context, Stage
from edgemtl.record.run_record import PARITY, QUANTIZE


class Parity(Stage):
    """Torch, exported ONNX, simplified ONNX and artefact on the same real pictures.

    An artefact in lower precision is held against the graph it was made from (``lowered``), as a
    reference runs it; how far that graph is from float32 is told, and what it costs is judged by
    the tasks' accuracy gates.
    """

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "images": context.recipe.export.parity_images,
            "data": context.calibration_fingerprint,
            "threads": context.recipe.bench.threads,
        }

    def run(self, context: Context, folder: Path) -> ParityOutcome:
        """Compare, whatever the verdict."""
        if "routed" in self.reads and (networks := routed_folder(context)) is not None:
            return self._routed(context, networks)
        export = self.folder_of(context, "export")
        images = context.real_inputs(context.recipe.export.parity_images)
        network = context.network(self.reads["network"])
        forms = {
            "torch": network_runner(network, context.task_names),
            "onnx": onnx_runner(export / RAW),
            "simplified": onnx_runner(export / ONNX),
        }
        graph = None
        if "lowered" in self.reads:
            place = self.folder_of(context, "lowered")
            precision = str(read_json(place / QUANTIZE)["precision"])
            if precision != "fp32":
                run = as_written(place / ONNX, context.backend, folder)
                graph = LoweredGraph(precision, run)
        with context.session(self.reads["artefact"]) as session:
            inputs = [image[None] for image in images]
            return check_parity(ParityRequest(forms, session.run, inputs, context.tasks, graph))

    def _routed(self, context: Context, networks: Path) -> ParityOutcome:
        full = folded(context.network(self.reads["network"]), context.recipe)
        dispatched = Dispatched(networks, full, context.factory)
        count = context.recipe.export.parity_images
        candidates = context.real_inputs(CANDIDATES * count)
        with context.session(self.reads["artefact"]) as session:
            return dispatched.parity(session.run, candidates, count, context.tasks)

    def check(self, context: Context) -> None:
        """Raise :class:`ParityFailed` naming the first form and output that differ."""
        outcome = ParityOutcome(read_json(context.folders[self.name] / PARITY))
        if "routed" in self.reads and routed_folder(context) is not None:
            outcome.require("build without the router: --set mask.enabled=false")
        outcome.require(f"'{_advice(context)}' names the first layer that differs, or the runtime")


def _advice(context: Context) -> str:
    """The command that finds out where the forms part, on the same pictures."""
    run, recipe = context.private.parent, context.recipe
    model, graph, precision = context.model, "model.onnx", "fp32"
    if "prune" in context.folders:
        model = run / "model" / "pruned.pt"
    if "quantize" in context.folders:
        graph = "quantized.onnx"
        precision = str(read_json(context.folders["quantize"] / QUANTIZE)["precision"])
    name = context.target.name
    words = ["edgemtl", "parity", str(model), str(run / "model" / graph), "--target"]
    words.append(name if name in targets.names() else f"{name}.toml")
    words += [word for root in recipe.data.root for word in ("--data", str(root))]
    words += ["--split", recipe.data.calibration, "--images", str(recipe.export.parity_images)]
    words += ["--precision", precision] if precision != "fp32" else []
    words += ["--factory", context.factory] if context.factory is not None else []
    return shlex.join([*words, "--bisect"])
