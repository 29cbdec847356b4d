"""The parity stage: nothing is timed or shipped that does not compute the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.export.network import RAW
from edgemtl.export.parity import onnx_runner
from edgemtl.files import read_json, write_json
from edgemtl.measure.accuracy import network_runner
from edgemtl.pipeline.check_stages import open_session, real_inputs
from edgemtl.pipeline.parity import (
    LoweredGraph,
    ParityOutcome,
    ParityRequest,
    as_written,
    check_parity,
)
from edgemtl.pipeline.quantize_stage import QUANTIZE
from edgemtl.pipeline.stage import ONNX, Context, Stage, Tell

PARITY = "parity.json"


class Parity(Stage):
    """Torch, exported ONNX, simplified ONNX and artefact on the same real pictures.

    Reads, in this order: the stage that left the network, its export, its compile stage, and the
    stage that chose a precision, where there is one. An artefact in lower precision is held against
    the graph it was made from, as a reference runs it; how far that graph is from float32 is told,
    and what it costs is judged by the tasks' accuracy gates.
    """

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "images": context.recipe.export.parity_images,
            "data": context.calibration_fingerprint,
            "threads": context.recipe.bench.threads,
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Compare and write ``parity.json``, whatever the verdict."""
        source, export, compiled, *lowered = self.after
        pictures = real_inputs(context, context.recipe.export.parity_images)
        forms = {
            "torch": network_runner(context.network(source), context.task_names),
            "onnx": onnx_runner(context.folders[export] / RAW),
            "simplified": onnx_runner(context.folders[export] / ONNX),
        }
        graph = None
        if lowered:
            place = context.folders[lowered[0]]
            precision = str(read_json(place / QUANTIZE)["precision"])
            if precision != "fp32":
                run = as_written(place / ONNX, context.backend, folder)
                graph = LoweredGraph(precision, run)
        with open_session(context, compiled) as session:
            inputs = [picture[None] for picture in pictures]
            request = ParityRequest(forms, session.run, inputs, context.tasks, graph)
            outcome = check_parity(request)
        write_json(folder / PARITY, dict(outcome.data))
        tell(outcome.summary())

    def check(self, context: Context) -> None:
        """Raise :class:`ParityFailed` naming the first form and output that differ."""
        outcome = ParityOutcome(read_json(context.folders[self.name] / PARITY))
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
