"""Stages that find out: accuracy, cost, latency, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.data.concat import Concatenated
from edgemtl.files import read_json
from edgemtl.gates.junit import write_junit
from edgemtl.measure.accuracy import Run, network_runner
from edgemtl.measure.results import BenchRequest
from edgemtl.measure.timed import Around, bench_request
from edgemtl.pipeline.bench import (
    LatencyOutcome,
    LatencyRequest,
    compare_rule,
    measure_latency,
    not_timed,
    stop_rule,
)
from edgemtl.pipeline.cost import CostOutcome, CostRequest, network_cost
from edgemtl.pipeline.evaluate import EvaluateOutcome, EvaluateRequest, evaluate_model
from edgemtl.pipeline.gate import Verdicts, judge_measured
from edgemtl.pipeline.stage import ARTEFACT, EXPORT_FACTS, ONNX, Context, Stage
from edgemtl.record.run_record import (
    ACCURACY,
    COMPARISON,
    COST,
    IDENTICAL,
    JUNIT,
    LATENCY,
    PRUNE,
    Measured,
    metric_rows,
)


class Accuracy(Stage):
    """Accuracy per task: of the uncompressed torch ``network``, or of an ``artefact``."""

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "data": context.evaluation_fingerprint,
            "data_name": context.evaluation.name,
            "threads": context.recipe.bench.threads,
            "of": context.against.note if "network" in self.reads else "",
            **self._answers(context),
        }

    @staticmethod
    def _answers(context: Context) -> dict[str, Any]:
        """Whose answers tasks are held against, where some are."""
        if not any(task.from_reference for task in context.tasks):
            return {}
        other = context.against.reference
        return {"answers": context.model_sha256 if other is None else other.weights_sha256}

    def run(self, context: Context, folder: Path) -> EvaluateOutcome:
        """Evaluate on the pictures that accuracy is measured on."""
        data = context.evaluation
        if "network" in self.reads:
            network, note = context.network(self.reads["network"]), context.against.note
            return evaluate_model(
                EvaluateRequest.of_network(network, context.task_names, data, note)
            )
        with context.session(self.reads["artefact"]) as session:
            spec = context.dense.input_spec
            reference = self._reference(context)
            return evaluate_model(
                EvaluateRequest(session.run, context.tasks, spec, data, reference=reference)
            )

    @staticmethod
    def _reference(context: Context) -> Run | None:
        """The uncompressed network, for tasks that are held against its answers."""
        if not any(task.from_reference for task in context.tasks):
            return None
        other = context.against.reference
        network = context.dense if other is None else other.network
        return network_runner(network, context.task_names)


class Cost(Stage):
    """MACs, parameters and bytes of a float32 graph, and of the artefact made from it.

    Beside them those of the torch network that the graph was written from, as ``inspect`` counts.

    Of an artefact in lower precision the bytes of activations are not known, and left out.
    """

    def inputs(self, context: Context) -> dict[str, Any]:
        return {}

    def run(self, context: Context, folder: Path) -> CostOutcome:
        """Count what the graph computes and what the artefact takes."""
        graph, artefact = self.folder_of(context, "graph"), self.folder_of(context, "artefact")
        quantized = context.folders.get("quantize")
        lowered = quantized is not None and self.reads["artefact"] == "compile"
        request = CostRequest(
            graph / ONNX,
            context.artefact(self.reads["artefact"]),
            read_json(artefact / ARTEFACT)["size_bytes"],
            quantized / ONNX if quantized is not None and lowered else None,
            read_json(graph / EXPORT_FACTS).get("network"),
        )
        return network_cost(request)


class Bench(Stage):
    """Latency of the artefact, in turns with the uncompressed one where the two differ.

    Reads the ``artefact``, that of the uncompressed network (``dense``) and, where a precision was
    chosen, that of the same network in float32 (``same_in_float``).
    """

    needs_data = True

    cacheable = False

    def inputs(self, context: Context) -> dict[str, Any]:
        return {"bench": context.recipe.bench.model_dump()}

    def run(self, context: Context, folder: Path) -> LatencyOutcome:
        """Measure."""
        if why := not_timed(context.recipe.bench, context.target):
            return LatencyOutcome(why)
        in_float = self.reads.get("same_in_float")
        request = LatencyRequest(
            self._request(context, self.reads["artefact"]),
            self._request(context, self.reads["dense"]),
            None if in_float is None else self._request(context, in_float),
            compare_rule(context.recipe.bench),
            images=lambda: context.real_inputs(1),
        )
        return measure_latency(request)

    @staticmethod
    def _request(context: Context, stage: str) -> BenchRequest:
        around = Around(context.tasks, context.dense.input_spec, _some_image(context))
        stop, seed = stop_rule(context.recipe.bench), context.recipe.data.seed
        return bench_request(context.artefact(stage), context.session_options, stop, seed, around)


def _some_image(context: Context) -> Path | None:
    """A real picture for timing pre- and post-processing, where the data set keeps files."""
    dataset = context.calibration
    if isinstance(dataset, Concatenated):
        dataset = dataset.parts[0]
    entries = getattr(dataset, "entries", None)
    path = getattr(entries[0], "path", None) if entries else None
    return path if isinstance(path, Path) and path.exists() else None


def metric_specs(context: Context) -> dict[str, Any]:
    """Per task its figures as plain data: how a reader labels and orders them."""

    return {task.name: metric_rows(task) for task in context.tasks}


class Gates(Stage):
    """Hold what was found against the recipe's limits."""

    cacheable = False

    def inputs(self, context: Context) -> dict[str, Any]:
        return {"gates": context.recipe.gates.model_dump(mode="json")}

    def run(self, context: Context, folder: Path) -> Verdicts:
        """Judge; never raises for a failed gate. ``junit.xml`` says the same."""
        recipe = context.recipe
        verdicts = judge_measured(recipe.gates, self._measured(context), recipe.prune)
        write_junit(verdicts.report, folder / JUNIT)
        return verdicts

    def _measured(self, context: Context) -> Measured:
        """What the stages before found out."""

        def pair(what: str, name: str) -> dict[str, Any]:
            sides = {"reference": f"{what}_before", "artefact": f"{what}_after"}
            return {
                side: read_json(self.folder_of(context, role) / name)
                for side, role in sides.items()
            }

        bench = self.folder_of(context, "bench")
        return Measured(
            metric_specs(context),
            pair("accuracy", ACCURACY),
            pair("cost", COST),
            _optional(bench / LATENCY),
            _optional(bench / COMPARISON),
            (bench / IDENTICAL).exists(),
            read_json(self.folder_of(context, "pruned") / PRUNE)
            if "pruned" in self.reads
            else None,
        )


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None
