"""Stages that leave something for people and devices: the bundle, pictures of predictions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edgemtl.bundle.archive import runner_bytes
from edgemtl.bundle.sbom import tool_versions
from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.files import read_json
from edgemtl.measure.accuracy import Run, network_runner
from edgemtl.pipeline.bundle import (
    SELFTEST_CASES,
    BundleOutcome,
    BundleRequest,
    Findings,
    make_bundle,
)
from edgemtl.pipeline.predictions import predict
from edgemtl.pipeline.routed_set import routed_folder
from edgemtl.pipeline.stage import ONNX, Context, Stage
from edgemtl.record.run_record import ACCURACY, COST, PARITY, PRUNE, QUANTIZE

BUNDLE = "bundle.edgemtl"


class MakeBundle(Stage):
    """Everything a device needs, in one deterministic file."""

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "name": context.model.stem,
            "recipe": context.recipe.to_dict(),
            "calibration": context.calibration_fingerprint,
            # A bundle holds the runner's very bytes, and the names of all tools.
            "runner": hashlib.sha256(runner_bytes(context.backend)).hexdigest(),
            "tools": tool_versions(),
        }

    def run(self, context: Context, folder: Path) -> BundleOutcome:
        """Record the self-test and write the bundle."""
        networks = routed_folder(context) if "routed" in self.reads else None
        place = self.folder_of(context, "graph")
        # Of the precision that the graph is written in, where a stage chose one.
        chosen = place / QUANTIZE

        def found(role: str, name: str) -> Any:
            return read_json(self.folder_of(context, role) / name)

        request = BundleRequest(
            model=context.model,
            factory=context.factory,
            network=context.dense,
            tasks=context.tasks,
            graph=place / ONNX if networks is None else networks / SINGLE_FILE,
            artefact=context.artefact(self.reads["artefact"]),
            target=context.target,
            recipe=context.recipe,
            inputs=context.real_inputs(SELFTEST_CASES),
            precision=str(read_json(chosen)["precision"]) if chosen.exists() else "fp32",
            dense=context.artefact(self.reads["dense"]),
            found=Findings(
                found("accuracy_before", ACCURACY),
                found("accuracy_after", ACCURACY),
                found("cost_before", COST),
                found("cost_after", COST),
                found("parity", PARITY),
                context.recipe.to_dict()["gates"],
                found("pruned", PRUNE) if "pruned" in self.reads else None,
            ),
        )
        return make_bundle(request, folder / BUNDLE)


class PredictionImages(Stage):
    """Predictions of the uncompressed network and of the artefact, on a few real pictures."""

    needs_data = True

    COUNT = 4

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "data": context.evaluation_fingerprint,
            "tasks": context.task_names,
            "threads": context.recipe.bench.threads,
        }

    def run(self, context: Context, folder: Path) -> DrawnPredictions:
        """Write ``NAME.before.png`` and ``NAME.after.png``."""
        spec, names = context.dense.input_spec, []
        with context.session(self.reads["artefact"]) as session:
            runs: dict[str, Run] = {
                "before": network_runner(
                    context.network(self.reads["network"]), context.task_names
                ),
                "after": session.run,
            }
            for index, sample in enumerate(islice(context.evaluation, self.COUNT)):
                for side, run in runs.items():
                    drawn = predict(sample.image, context.tasks, spec, run)
                    names.append(f"{index:02d}-{Path(sample.name).stem}.{side}.png")
                    drawn.write(folder / names[-1])
        return DrawnPredictions(tuple(names))


@dataclass(frozen=True)
class DrawnPredictions:
    """Names of the pictures in the stage's folder."""

    names: tuple[str, ...]

    def documents(self) -> dict[str, Any]:
        """None: pictures are no JSON."""
        return {}

    def summary(self) -> list[str]:
        """How many there are."""
        return [f"{len(self.names)} pictures"]
