"""Stages that find out: parity, accuracy, cost, latency, gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl.backends.artefacts import same_artefact
from edgemtl.data.concat import Concatenated
from edgemtl.errors import StageFailed
from edgemtl.files import read_json
from edgemtl.gates.junit import write_junit
from edgemtl.measure.latency import BenchRequest, InterleaveRule, bench, compare
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.statistics import Ratio
from edgemtl.pipeline.bench import Around, bench_request, stop_rule
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
    LAYERS,
    PRECISION,
    PRUNE,
    REFERENCE,
    SKIPPED,
    Measured,
    metric_row,
)

#: seconds that a comparison may take, in pairs of blocks
COMPARE = InterleaveRule(pairs=24, min_pairs=8, block_seconds=0.2, max_seconds=30.0)


class Accuracy(Stage):
    """Accuracy per task: of the uncompressed torch ``network``, or of an ``artefact``."""

    needs_data = True

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "data": context.evaluation_fingerprint,
            "data_name": context.evaluation.name,
            "threads": context.recipe.bench.threads,
            "of": context.against.note if "network" in self.reads else "",
        }

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
            return evaluate_model(EvaluateRequest(session.run, context.tasks, spec, data))


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


@dataclass(frozen=True)
class Timed:
    """Latency, as far as it was measured.

    Attributes:
        skipped: why it was not; empty where it was.
        latency: of the artefact alone.
        identical: whether the artefact is the uncompressed one, so that nothing was compared.
        comparison: with the uncompressed network, in turns.
        against_float: how much faster than the same network in float32.
        layers: what each layer takes, where the runtime tells, and its backend.
        notes: sentences for the reader.
    """

    skipped: str = ""
    latency: LatencyResult | None = None
    identical: bool = False
    comparison: Comparison | None = None
    against_float: Ratio | None = None
    layers: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def documents(self) -> dict[str, Any]:
        """The files of ``bench/``."""
        comparison, ratio = self.comparison, self.against_float
        found: dict[str, Any] = {
            SKIPPED: {"reason": self.skipped} if self.skipped else None,
            LATENCY: None if self.latency is None else self.latency.to_dict(),
            IDENTICAL: {"identical": True} if self.identical else None,
            COMPARISON: None if comparison is None else comparison.to_dict(),
            REFERENCE: None if comparison is None else comparison.b.to_dict(),
            PRECISION: None if ratio is None else {"speedup": asdict(ratio)},
            LAYERS: self.layers,
        }
        return {name: data for name, data in found.items() if data is not None}

    def summary(self) -> list[str]:
        """What was found, in sentences."""
        if self.skipped:
            return [f"latency not measured: {self.skipped}"]
        told = []
        if self.latency is not None:
            found, threads = self.latency.summary, self.latency.threads
            told.append(
                f"p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, {threads} thread(s)"
            )
            if not self.latency.stable:
                told.append(f"not stable: {self.latency.reason}")
        told += self.notes
        if self.identical:
            told.append("the artefact is the uncompressed one, byte for byte: nothing to compare")
        if self.comparison is not None:
            ratio = self.comparison.speedup
            told.append(
                f"{ratio.value:.2f} x the uncompressed one ({ratio.low:.2f} to {ratio.high:.2f})"
            )
        if self.against_float is not None and self.against_float.high < 1:
            told.append(
                f"slower than the same network in fp32 here ({self.against_float.value:.2f} x): "
                'take precision = "fp32" or "auto"'
            )
        return told


class Bench(Stage):
    """Latency of the artefact, in turns with the uncompressed one where the two differ.

    Reads the ``artefact``, that of the uncompressed network (``dense``) and, where a precision was
    chosen, that of the same network in float32 (``same_in_float``).
    """

    needs_data = True

    cacheable = False

    def inputs(self, context: Context) -> dict[str, Any]:
        return {"bench": context.recipe.bench.model_dump()}

    def run(self, context: Context, folder: Path) -> Timed:
        """Measure."""
        recipe = context.recipe.bench
        if not recipe.enabled:
            return Timed("switched off")
        if not context.target.measured_here:
            return Timed("this machine is not the device")
        compiled, dense = self.reads["artefact"], self.reads["dense"]
        request = self._request(context, compiled)
        latency = bench(request)
        layers, notes = self._layers(context)
        built = {stage: context.artefact(stage) for stage in {*self.reads.values()}}
        if same_artefact(built[compiled], built[dense]):
            return Timed(latency=latency, identical=True, layers=layers, notes=notes)
        seed = context.recipe.data.seed
        comparison = compare(request, self._request(context, dense), COMPARE, seed)
        against: Ratio | None = None
        same = self.reads.get("same_in_float")
        if same is not None and not same_artefact(built[compiled], built[same]):
            against = comparison.speedup
            if same != dense:
                again = self._request(context, compiled)
                against = compare(again, self._request(context, same), COMPARE, seed).speedup
        return Timed("", latency, False, comparison, against, layers, notes)

    def _layers(self, context: Context) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        """``layers.json``: what each layer takes, where the runtime tells; and why not."""
        from edgemtl.backends.layer_times import layer_times

        artefact = context.artefact(self.reads["artefact"])
        try:
            found = layer_times(artefact, context.session_options, context.real_inputs(1))
        except StageFailed as error:  # the figures of the run do not need it
            return None, (error.message,)
        if not found:
            return None, ()
        layers = [layer.to_dict() for layer in found]
        return {"backend": artefact.backend, "layers": layers}, ()

    @staticmethod
    def _request(context: Context, stage: str) -> BenchRequest:
        around = Around(context.tasks, context.dense.input_spec, _some_picture(context))
        stop, seed = stop_rule(context.recipe.bench), context.recipe.data.seed
        return bench_request(context.artefact(stage), context.session_options, stop, seed, around)


def _some_picture(context: Context) -> Path | None:
    """A real picture for timing pre- and post-processing, where the data set keeps files."""
    dataset = context.calibration
    if isinstance(dataset, Concatenated):
        dataset = dataset.parts[0]
    entries = getattr(dataset, "entries", None)
    path = getattr(entries[0], "path", None) if entries else None
    return path if isinstance(path, Path) and path.exists() else None


def metric_specs(context: Context) -> dict[str, Any]:
    """Per task its figures as plain data: how a reader labels and orders them."""

    return {
        task.name: {
            "primary": metric_row(task.primary),
            "secondary": [metric_row(metric) for metric in task.secondary],
        }
        for task in context.tasks
    }


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
