"""The parity stage: nothing is timed or shipped that does not compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl.backends.int8 import unsigned_activations
from edgemtl.errors import ParityFailed
from edgemtl.export.network import RAW
from edgemtl.export.parity import SAME_INT8, TOLERANCES, Run, check_chain, onnx_runner
from edgemtl.files import read_json, write_json
from edgemtl.measure.accuracy import network_runner
from edgemtl.pipeline.check_stages import open_session, real_inputs
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
        inputs = [picture[None] for picture in pictures]
        forms = {
            "torch": network_runner(context.network(source), context.task_names),
            "onnx": onnx_runner(context.folders[export] / RAW),
            "simplified": onnx_runner(context.folders[export] / ONNX),
        }
        precision = "fp32"
        if lowered:
            graph = context.folders[lowered[0]]
            precision = str(read_json(graph / QUANTIZE)["precision"])
        with open_session(context, compiled) as session:
            if precision == "fp32":
                data = check_chain(
                    {**forms, "artefact": session.run}, inputs, context.tasks
                ).to_dict()
            else:
                reference = _reference(graph / ONNX, context.backend.unsigned_int8, folder)
                told = {precision: TOLERANCES[precision]}
                report = check_chain({**forms, precision: reference}, inputs, context.tasks, told)
                same = SAME_INT8 if precision == "int8" else TOLERANCES[precision]
                own = check_chain(
                    {precision: reference, "artefact": session.run}, inputs, context.tasks, same
                )
                data = report.to_dict()
                artefact = own.to_dict()["stages"]["artefact"]
                data["stages"]["artefact"] = {"reference": precision, **artefact}
                data["passed"] = report.passed and own.passed
        write_json(folder / PARITY, data)
        tell(f"{len(inputs)} pictures, {_worst(data)}")

    def check(self, context: Context) -> None:
        """Raise :class:`ParityFailed` naming the first form and output that differ."""
        data = read_json(context.folders[self.name] / PARITY)
        for form, report in data["stages"].items():
            for output in report["outputs"]:
                if not output["ok"]:
                    raise ParityFailed(
                        f"task '{output['task']}', output '{output['name']}' differs by "
                        f"{output['max_relative']} of its range "
                        f"({report['max_relative_allowed']} allowed)",
                        where=f"{report.get('reference', data['reference'])} against {form}",
                        hint="'edgemtl parity MODEL ONNX --bisect' names the first layer that "
                        "differs",
                    )


def _reference(graph: Path, unsigned: bool, folder: Path) -> Run:
    """A graph in lower precision, run as written, in the signedness that the backend reads."""
    import onnx

    if not unsigned:
        return onnx_runner(graph)
    place = folder / "reference.onnx"
    place.write_bytes(unsigned_activations(onnx.load(graph)).SerializeToString())
    try:
        return onnx_runner(place)
    finally:
        place.unlink()


def _worst(data: Mapping[str, Any]) -> str:
    """The largest difference of each kind of comparison, in words."""
    found: dict[str, float] = {}
    for form, report in data["stages"].items():
        against = report.get("reference", data["reference"])
        kind = "fp32" if report["precision"] == "fp32" else f"{form} against {against}"
        for output in report["outputs"]:
            value = output["max_relative"]
            found[kind] = max(found.get(kind, 0.0), float("inf") if value is None else value)
    told = [f"{value:.1e}{'' if kind == 'fp32' else f' ({kind})'}" for kind, value in found.items()]
    return f"largest difference {', '.join(told)} of an output's range"
