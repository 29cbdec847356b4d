"""Stages that leave something for people and devices: the bundle, pictures of predictions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edgemtl.backends.artefacts import same_artefact
from edgemtl.bundle.archive import runner_bytes
from edgemtl.bundle.sbom import tool_versions
from edgemtl.bundle.selftest import TOLERANCES, Tolerance, record_selftest
from edgemtl.bundle.write import BundleContents, write_bundle
from edgemtl.exporting.onnx_export import INPUT_NAME
from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.files import read_json
from edgemtl.measure.accuracy import Run, network_runner
from edgemtl.models.checkpoint import weights_hash
from edgemtl.pipeline.predictions import predict
from edgemtl.pipeline.routed_set import routed_folder
from edgemtl.pipeline.stage import ONNX, Context, Stage
from edgemtl.record.run_record import ACCURACY, COST, PARITY, PRUNE, QUANTIZE

BUNDLE = "bundle.edgemtl"
#: each takes an input and all raw outputs, some megabytes for networks that answer per anchor
SELFTEST_CASES = 1


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle, in its stage's folder, and what its user must know of it."""

    path: Path
    notes: tuple[str, ...] = ()

    def documents(self) -> dict[str, Any]:
        """None: the bundle says what it is."""
        return {}

    def summary(self) -> list[str]:
        """What its user must know, and how large it is."""
        return [*self.notes, f"{self.path.stat().st_size / 1e6:.2f} MB"]


class MakeBundle(Stage):
    """Everything a device needs, in one deterministic file.

    The artefact of the uncompressed network (``dense``) goes along where another machine is the
    device: only there can the two be timed against each other.
    """

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

    def run(self, context: Context, folder: Path) -> WrittenBundle:
        """Record the self-test and write the bundle."""
        compiled, dense = self.reads["artefact"], self.reads["dense"]
        alone = context.target.measured_here or same_artefact(
            context.artefact(compiled), context.artefact(dense)
        )
        inputs = context.real_inputs(SELFTEST_CASES)
        with context.session(compiled) as session:
            selftest = record_selftest(session, inputs[:, None], self._tolerance(context))
        recipe = context.recipe.to_dict()

        networks = routed_folder(context) if "routed" in self.reads else None
        graph = self.folder_of(context, "graph") / ONNX

        def found(role: str, name: str) -> Any:
            return read_json(self.folder_of(context, role) / name)

        contents = BundleContents(
            name=context.model.stem,
            source_sha256=weights_hash(context.dense),
            onnx=graph if networks is None else networks / SINGLE_FILE,
            artefact=context.artefact(compiled),
            target=context.target,
            input_name=INPUT_NAME,
            input_spec=context.dense.input_spec,
            tasks=context.tasks,
            selftest=selftest,
            session=context.session_options,
            accuracy_reference=found("accuracy_before", ACCURACY),
            accuracy_bundle=found("accuracy_after", ACCURACY),
            cost_before=found("cost_before", COST),
            cost_after=found("cost_after", COST),
            parity=found("parity", PARITY),
            gates=recipe["gates"],
            pruning=found("pruned", PRUNE) if "pruned" in self.reads else None,
            seeds={"data": context.recipe.data.seed},
            recipe=recipe,
            licence_note=_licence_note(context),
            reference=None if alone else context.artefact(dense),
        )
        write_bundle(folder / BUNDLE, contents)
        if not context.backend.capabilities.runner:
            note = (
                f"the bundle cannot run itself: backend '{context.backend.name}' brings no module "
                "for the runner inside it (edgemtl run and bench work where the backend is)"
            )
            return WrittenBundle(folder / BUNDLE, (note,))
        return WrittenBundle(folder / BUNDLE)

    def _tolerance(self, context: Context) -> Tolerance:
        """Of the precision that the graph is written in, where a stage chose one."""
        chosen = self.folder_of(context, "graph") / QUANTIZE
        return TOLERANCES[str(read_json(chosen)["precision"]) if chosen.exists() else "fp32"]


def _licence_note(context: Context) -> str:
    from edgemtl.models.checkpoint import load

    if context.factory is not None:
        return ""
    return str(load(context.model).meta.get("licence", ""))


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
