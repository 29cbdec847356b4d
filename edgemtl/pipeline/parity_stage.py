"""The parity stage: nothing is timed or shipped that does not compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.errors import ParityFailed
from edgemtl.export.parity import check_chain, onnx_runner
from edgemtl.files import read_json, write_json
from edgemtl.measure.accuracy import network_runner
from edgemtl.pipeline.build_stages import RAW_ONNX
from edgemtl.pipeline.check_stages import open_session, real_inputs
from edgemtl.pipeline.stage import ONNX, Context, Stage, Tell

PARITY = "parity.json"


class Parity(Stage):
    """Torch, exported ONNX, simplified ONNX and artefact on the same real pictures.

    Reads, in this order: the stage that left the network, its export, its compile stage.
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
        source, export, compiled = self.after
        inputs = real_inputs(context, context.recipe.export.parity_images)
        with open_session(context, compiled) as session:
            report = check_chain(
                {
                    "torch": network_runner(context.network(source), context.task_names),
                    "onnx": onnx_runner(context.folders[export] / RAW_ONNX),
                    "simplified": onnx_runner(context.folders[export] / ONNX),
                    "artefact": session.run,
                },
                [picture[None] for picture in inputs],
                context.tasks,
            )
        write_json(folder / PARITY, report.to_dict())
        worst = max(
            (stage.worst().difference.max_relative for stage in report.stages.values()), default=0.0
        )
        tell(f"{len(inputs)} pictures, largest difference {worst:.1e} of an output's range")

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
                        where=f"{data['reference']} against {form}",
                        hint="'edgemtl parity MODEL ONNX --bisect' names the first layer that "
                        "differs",
                    )
