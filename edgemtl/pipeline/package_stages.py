"""Stages that leave something for people and devices: the bundle, pictures of predictions."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.bundle.archive import runner_bytes
from edgemtl.bundle.sbom import tool_versions
from edgemtl.bundle.selftest import TOLERANCES, Tolerance, record_selftest
from edgemtl.bundle.write import BundleContents, write_bundle
from edgemtl.data.preprocess import letterbox
from edgemtl.errors import StageFailed
from edgemtl.export.onnx_export import INPUT_NAME
from edgemtl.files import read_json, write_atomically
from edgemtl.measure.accuracy import Run, decode_all, network_runner
from edgemtl.models.checkpoint import weights_hash
from edgemtl.pipeline.check_stages import (
    ACCURACY,
    COST,
    open_session,
    real_inputs,
    same_artefact,
)
from edgemtl.pipeline.parity_stage import PARITY
from edgemtl.pipeline.quantize_stage import QUANTIZE
from edgemtl.pipeline.stage import ONNX, Context, Stage, Tell
from edgemtl.report.drawing import draw_results

BUNDLE = "bundle.edgemtl"
#: each takes an input and all raw outputs, some megabytes for networks that answer per anchor
SELFTEST_CASES = 1


class MakeBundle(Stage):
    """Everything a device needs, in one deterministic file.

    Reads, in this order: export (or quantize), compile, parity, accuracy-reference, accuracy,
    cost-reference, cost.

    The last stage that it reads compiled the uncompressed network. That goes along where another
    machine is the device: only there can the two be timed against each other.
    """

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "name": context.model.stem,
            "recipe": context.recipe.to_dict(),
            "calibration": context.calibration_fingerprint,
            # A bundle holds the runner's very bytes, and the names of all tools.
            "runner": hashlib.sha256(runner_bytes()).hexdigest(),
            "tools": tool_versions(),
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Record the self-test and write the bundle."""
        export, compiled, parity, *_, dense = self.after
        alone = context.target.measured_here or same_artefact(context, compiled, dense)
        inputs = real_inputs(context, SELFTEST_CASES)
        with open_session(context, compiled) as session:
            selftest = record_selftest(session, inputs[:, None], self._tolerance(context))
        recipe = context.recipe.to_dict()
        write_bundle(
            folder / BUNDLE,
            BundleContents(
                name=context.model.stem,
                source_sha256=weights_hash(context.dense),
                onnx=context.folders[export] / ONNX,
                artefact=context.artefact(compiled),
                target=context.target,
                input_name=INPUT_NAME,
                input_spec=context.dense.input_spec,
                tasks=context.tasks,
                selftest=selftest,
                session=context.session_options,
                accuracy_reference=read_json(context.folders["accuracy-reference"] / ACCURACY),
                accuracy_bundle=read_json(context.folders["accuracy"] / ACCURACY),
                cost_before=read_json(context.folders["cost-reference"] / COST),
                cost_after=read_json(context.folders["cost"] / COST),
                parity=read_json(context.folders[parity] / PARITY),
                gates=recipe["gates"],
                seeds={"data": context.recipe.data.seed},
                recipe=recipe,
                licence_note=_licence_note(context),
                reference=None if alone else context.artefact(dense),
            ),
        )
        tell(f"{(folder / BUNDLE).stat().st_size / 1e6:.2f} MB")

    def _tolerance(self, context: Context) -> Tolerance:
        """Of the precision that the graph is written in, where a stage chose one."""
        chosen = context.folders[self.after[0]] / QUANTIZE
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

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write ``NAME.before.png`` and ``NAME.after.png``."""
        with open_session(context, self.after[1]) as session:
            runs: dict[str, Run] = {
                "before": network_runner(context.network(self.after[0]), context.task_names),
                "after": session.run,
            }
            for index, sample in enumerate(islice(context.evaluation, self.COUNT)):
                canvas, view = letterbox(sample.image, context.dense.input_spec)
                for side, run in runs.items():
                    outputs = {name: value[0] for name, value in run(canvas[None]).items()}
                    decoded = decode_all(context.tasks, outputs, view)
                    drawn = draw_results(sample.image, context.tasks, decoded)
                    name = f"{index:02d}-{Path(sample.name).stem}.{side}.png"
                    _write_png(folder / name, drawn)
        tell(f"{len(list(folder.glob('*.png')))} pictures")


def _write_png(path: Path, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    good, encoded = cv2.imencode(".png", image)
    if not good:
        raise StageFailed("a picture could not be encoded", where=str(path))
    write_atomically(path, lambda stream: stream.write(encoded.tobytes()))
