"""Stages that find out: parity, accuracy, cost, latency, gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.session import Session
from edgemtl.data.concat import Concatenated
from edgemtl.errors import StageFailed
from edgemtl.exporting.cost import Cost as GraphCost
from edgemtl.exporting.cost import count_cost
from edgemtl.files import read_json, sha256_file
from edgemtl.gates.junit import write_junit
from edgemtl.measure.accuracy import AccuracyReport, evaluate, network_runner
from edgemtl.measure.latency import BenchRequest, InterleaveRule, bench, compare
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.statistics import Ratio
from edgemtl.pipeline.bench import Around, bench_request, stop_rule
from edgemtl.pipeline.datasets import first_images
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

#: problems in the data that a stage names; accuracy.json has them all
NAMED = 3
#: seconds that a comparison may take, in pairs of blocks
COMPARE = InterleaveRule(pairs=24, min_pairs=8, block_seconds=0.2, max_seconds=30.0)


@contextmanager
def open_session(context: Context, compile_stage: str) -> Iterator[Session]:
    """The artefact of a compile stage, loaded; closed again on leaving."""
    session = context.backend.load(context.artefact(compile_stage), context.session_options)
    try:
        yield session
    finally:
        session.close()


def real_inputs(context: Context, count: int) -> NDArray[np.float32]:
    """(count, 3, H, W): the first calibration pictures that decode, letterboxed.

    Raises:
        InputRefused: none decodes.
    """
    return first_images(context.calibration, context.dense.input_spec, count, "calibration")


@dataclass(frozen=True)
class Evaluation:
    """Accuracy per task."""

    report: AccuracyReport

    def documents(self) -> dict[str, Any]:
        """``accuracy.json``."""
        return {ACCURACY: self.report.to_dict()}

    def summary(self) -> list[str]:
        """On what it was measured, and what could not be used."""
        report = self.report
        told = [f"{report.images} pictures of {report.data}"]
        if report.skipped:
            named = "; ".join(report.skipped[:NAMED])
            more = "; ..." if len(report.skipped) > NAMED else ""
            told.append(f"{len(report.skipped)} problem(s) in the data: {named}{more}")
        return told


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

    def run(self, context: Context, folder: Path) -> Evaluation:
        """Evaluate on the pictures that accuracy is measured on."""
        if "network" in self.reads:
            network = context.network(self.reads["network"])
            tasks, spec = network.selected(context.task_names), network.input_spec
            run = network_runner(network, context.task_names)
            found = evaluate(run, tasks, spec, context.evaluation)
            return Evaluation(replace(found, of=context.against.note))
        with open_session(context, self.reads["artefact"]) as session:
            spec = context.dense.input_spec
            return Evaluation(evaluate(session.run, context.tasks, spec, context.evaluation))


@dataclass(frozen=True)
class CountedCost:
    """What a network costs.

    Attributes:
        graph: multiply-accumulates, parameters and bytes of activations of its float32 graph.
        size_bytes: of the artefact made from it.
        artefact_sha256: file of the artefact -> hash.
        lower_precision: whether the artefact is; the bytes of its activations are not known then.
        network: ``macs`` and ``parameters`` of the torch network, as ``inspect`` counts them.
    """

    graph: GraphCost
    size_bytes: int
    artefact_sha256: Mapping[str, str]
    lower_precision: bool
    network: Mapping[str, Any] | None

    def documents(self) -> dict[str, Any]:
        """``cost.json``."""
        data = self.graph.to_dict()
        if self.lower_precision:
            del data["activation_bytes"], data["peak_activation_bytes"]
        own = {"size_bytes": self.size_bytes, "artefact_sha256": dict(self.artefact_sha256)}
        return {COST: {**data, **own, "network": self.network}}

    def summary(self) -> list[str]:
        """In a sentence."""
        graph, own = self.graph, self.network
        told = [f"{graph.macs / 1e6:,.1f} M MACs, {graph.parameters:,} parameters"]
        if own is not None and (own["macs"], own["parameters"]) != (graph.macs, graph.parameters):
            told.append(
                f"the network before norms are folded and tables stored: {own['macs'] / 1e6:,.1f} "
                f"M MACs, {own['parameters']:,} parameters"
            )
        return told


class Cost(Stage):
    """MACs, parameters and bytes of a float32 graph, and of the artefact made from it.

    Beside them those of the torch network that the graph was written from, as ``inspect`` counts.

    Of an artefact in lower precision the bytes of activations are not known, and left out.
    """

    def inputs(self, context: Context) -> dict[str, Any]:
        return {}

    def run(self, context: Context, folder: Path) -> CountedCost:
        """Count what the graph computes and what the artefact takes."""
        graph, artefact = self.folder_of(context, "graph"), self.folder_of(context, "artefact")
        return CountedCost(
            count_cost(graph / ONNX),
            read_json(artefact / ARTEFACT)["size_bytes"],
            _artefact_hashes(context, self.reads["artefact"]),
            self._lower_precision(context),
            read_json(graph / EXPORT_FACTS).get("network"),
        )

    def _lower_precision(self, context: Context) -> bool:
        """Whether the artefact was made from other bytes than the float32 export."""
        quantized = context.folders.get("quantize")
        if quantized is None or self.reads["artefact"] != "compile":
            return False
        own = self.folder_of(context, "graph") / ONNX
        return sha256_file(quantized / ONNX) != sha256_file(own)


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
        if same_artefact(context, compiled, dense):
            return Timed(latency=latency, identical=True, layers=layers, notes=notes)
        seed = context.recipe.data.seed
        comparison = compare(request, self._request(context, dense), COMPARE, seed)
        against: Ratio | None = None
        same = self.reads.get("same_in_float")
        if same is not None and not same_artefact(context, compiled, same):
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
            found = layer_times(artefact, context.session_options, real_inputs(context, 1))
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


def same_artefact(context: Context, a: str, b: str) -> bool:
    """Whether two compile stages left the same bytes."""
    return _artefact_hashes(context, a) == _artefact_hashes(context, b)


def _artefact_hashes(context: Context, stage: str) -> dict[str, str]:
    artefact = context.artefact(stage)
    return {name: sha256_file(artefact.folder / name) for name in artefact.files}


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
