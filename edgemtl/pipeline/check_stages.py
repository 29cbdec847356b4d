"""Stages that find out: parity, accuracy, cost, latency, gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.session import Session
from edgemtl.data.concat import Concatenated
from edgemtl.errors import StageFailed
from edgemtl.export.cost import count_cost
from edgemtl.files import read_json, sha256_file, write_json
from edgemtl.gates.judge import GateFacts, judge
from edgemtl.gates.junit import write_junit
from edgemtl.measure.accuracy import AccuracyReport, Run, evaluate, network_runner
from edgemtl.measure.latency import BenchRequest, InterleaveRule, StopRule, bench, compare
from edgemtl.pipeline.datasets import first_images
from edgemtl.pipeline.prune_stage import PRUNE
from edgemtl.pipeline.stage import ARTEFACT, EXPORT_FACTS, ONNX, Context, Stage, Tell
from edgemtl.pipeline.task_limits import goal_comes_first
from edgemtl.recipes import PruneSection
from edgemtl.tasks.base import MetricSpec

ACCURACY = "accuracy.json"
COST = "cost.json"
GATES = "gates.json"
PRECISION = "precision.json"
JUNIT = "junit.xml"
LAYERS = "layers.json"
#: stages that leave a torch network
TORCH = ("model", "reference")
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
    return first_images(context.calibration, context.dense.input_spec, count)


class Accuracy(Stage):
    """Accuracy per task of the uncompressed network, or of an artefact.

    Args:
        name: of the stage.
        source: the stage that left a torch network ("model", "reference"), else the compile stage
            to evaluate.
    """

    needs_data = True

    def __init__(self, name: str, source: str) -> None:
        super().__init__(name, (source,))
        self.source = source

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "data": context.evaluation_fingerprint,
            "data_name": context.evaluation.name,
            "threads": context.recipe.bench.threads,
            "of": context.against.note if self.source in TORCH else "",
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Evaluate and write ``accuracy.json``."""
        if self.source in TORCH:
            network = context.network(self.source)
            run = network_runner(network, context.task_names)
            tasks = network.selected(context.task_names)
            found = evaluate(run, tasks, network.input_spec, context.evaluation)
            report = replace(found, of=context.against.note)
        else:
            with open_session(context, self.source) as session:
                report = self._evaluate(context, session.run)
        write_json(folder / ACCURACY, report.to_dict())
        tell(f"{report.images} pictures of {report.data}")
        if report.skipped:
            named = "; ".join(report.skipped[:NAMED])
            more = "; ..." if len(report.skipped) > NAMED else ""
            tell(f"{len(report.skipped)} problem(s) in the data: {named}{more}")

    @staticmethod
    def _evaluate(context: Context, run: Run) -> AccuracyReport:
        return evaluate(run, context.tasks, context.dense.input_spec, context.evaluation)


class Cost(Stage):
    """MACs, parameters and bytes of a float32 graph, and of the artefact made from it.

    Beside them those of the torch network that the graph was written from, as ``inspect`` counts.

    Of an artefact in lower precision the bytes of activations are not known, and left out.
    """

    def inputs(self, context: Context) -> dict[str, Any]:
        return {}

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Count and write ``cost.json``; ``size_bytes`` is the artefact's."""
        export, compiled = self.after
        cost = count_cost(context.folders[export] / ONNX)
        data = cost.to_dict()
        if _lower_precision(context, export, compiled):
            del data["activation_bytes"], data["peak_activation_bytes"]
        data["size_bytes"] = read_json(context.folders[compiled] / ARTEFACT)["size_bytes"]
        data["artefact_sha256"] = _artefact_hashes(context, compiled)
        own = read_json(context.folders[export] / EXPORT_FACTS).get("network")
        data["network"] = own
        write_json(folder / COST, data)
        tell(f"{cost.macs / 1e6:,.1f} M MACs, {cost.parameters:,} parameters")
        if own is not None and (own["macs"], own["parameters"]) != (cost.macs, cost.parameters):
            tell(
                f"the network before norms are folded and tables stored: {own['macs'] / 1e6:,.1f} "
                f"M MACs, {own['parameters']:,} parameters"
            )


def _lower_precision(context: Context, export: str, compiled: str) -> bool:
    """Whether an artefact was made from other bytes than the float32 export."""
    quantized = context.folders.get("quantize")
    if quantized is None or compiled != "compile":
        return False
    return sha256_file(quantized / ONNX) != sha256_file(context.folders[export] / ONNX)


class Bench(Stage):
    """Latency of the artefact, in turns with the uncompressed one where the two differ.

    Reads, in this order: the compile stage, the uncompressed network's, and, where a precision was
    chosen, that of the same network in float32.
    """

    needs_data = True

    cacheable = False

    def inputs(self, context: Context) -> dict[str, Any]:
        return {"bench": context.recipe.bench.model_dump()}

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Measure and write ``artefact.json`` and, after a comparison, the other two files."""
        recipe = context.recipe.bench
        if not recipe.enabled or not context.target.measured_here:
            why = "switched off" if not recipe.enabled else "this machine is not the device"
            write_json(folder / "skipped.json", {"reason": why})
            tell(f"latency not measured: {why}")
            return
        compiled, uncompressed, *same_in_float = self.after
        artefact, reference = (self._request(context, name) for name in (compiled, uncompressed))
        result = bench(artefact)
        write_json(folder / "artefact.json", result.to_dict())
        summary = result.summary
        tell(
            f"p50 {summary.p50_ms:.2f} ms, p99 {summary.p99_ms:.2f} ms, {recipe.threads} thread(s)"
        )
        if not result.stable:
            tell(f"not stable: {result.reason}")
        self._layers(context, folder, tell)
        if same_artefact(context, compiled, uncompressed):
            write_json(folder / "identical.json", {"identical": True})
            tell("the artefact is the uncompressed one, byte for byte: nothing to compare")
            return
        comparison = compare(artefact, reference, COMPARE, context.recipe.data.seed)
        write_json(folder / "comparison.json", comparison.to_dict())
        write_json(folder / "reference.json", comparison.b.to_dict())
        ratio = comparison.speedup
        tell(f"{ratio.value:.2f} x the uncompressed one ({ratio.low:.2f} to {ratio.high:.2f})")
        for name in same_in_float:
            self._against_float(context, folder, tell, name)

    def _layers(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write ``layers.json``: what each layer takes, where the runtime tells."""
        from edgemtl.backends.layer_times import layer_times

        artefact = context.artefact(self.after[0])
        try:
            found = layer_times(artefact, context.session_options, real_inputs(context, 1))
        except StageFailed as error:  # the figures of the run do not need it
            tell(error.message)
            return
        if found:
            data = {"backend": artefact.backend, "layers": [layer.to_dict() for layer in found]}
            write_json(folder / LAYERS, data)

    def _against_float(self, context: Context, folder: Path, tell: Tell, name: str) -> None:
        """Write ``precision.json``: the artefact against the same network in float32."""
        compiled, uncompressed, *_ = self.after
        if same_artefact(context, compiled, name):
            return
        if name == uncompressed:
            data = read_json(folder / "comparison.json")
        else:
            requests = [self._request(context, stage) for stage in (compiled, name)]
            data = compare(requests[0], requests[1], COMPARE, context.recipe.data.seed).to_dict()
        write_json(folder / PRECISION, {"speedup": data["speedup"]})
        told = data["speedup"]
        if told["high"] < 1:
            tell(
                f"slower than the same network in fp32 here ({told['value']:.2f} x): take "
                'precision = "fp32" or "auto"'
            )

    @staticmethod
    def _request(context: Context, stage: str) -> BenchRequest:
        recipe = context.recipe.bench
        seconds = min(recipe.seconds, recipe.max_seconds)
        return BenchRequest(
            context.artefact(stage),
            context.session_options,
            tasks=tuple(task.spec().to_dict() for task in context.tasks),
            input_spec=context.dense.input_spec.to_dict(),
            picture=_some_picture(context),
            stop=StopRule(
                warmup_seconds=recipe.warmup_seconds,
                min_runs=recipe.min_runs,
                min_seconds=seconds,
                max_seconds=recipe.max_seconds,
            ),
            seed=context.recipe.data.seed,
        )


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

    def plain(metric: MetricSpec) -> dict[str, str]:
        return {
            "key": metric.key,
            "label": metric.label,
            "direction": metric.direction,
            "unit": metric.unit,
        }

    return {
        task.name: {
            "primary": plain(task.primary),
            "secondary": [plain(metric) for metric in task.secondary],
        }
        for task in context.tasks
    }


class Gates(Stage):
    """Hold what was found against the recipe's limits."""

    cacheable = False

    def inputs(self, context: Context) -> dict[str, Any]:
        return {"gates": context.recipe.gates.model_dump(mode="json")}

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Judge and write ``gates.json`` and ``junit.xml``; never raises for a failed gate."""
        report = judge(context.recipe.gates, gate_facts(context))
        write_json(folder / GATES, report.to_dict())
        write_junit(report, folder / JUNIT)
        counts = [outcome.status for outcome in report.outcomes]
        tell(", ".join(f"{counts.count(s)} {s}" for s in dict.fromkeys(counts)) or "no gates")


def gate_facts(context: Context) -> GateFacts:
    """Everything the gates judge, from the folders of the stages before."""
    before = read_json(context.folders["accuracy-reference"] / ACCURACY)
    after = read_json(context.folders["accuracy"] / ACCURACY)
    bench_folder = context.folders["bench"]
    return GateFacts(
        metrics={task.name: task.primary for task in context.tasks},
        accuracy_before=before["tasks"],
        accuracy_after=after["tasks"],
        notes={**before["notes"], **after["notes"]},
        cost_before=_figures(context.folders["cost-reference"] / COST),
        cost_after=_figures(context.folders["cost"] / COST),
        latency=_optional(bench_folder / "artefact.json"),
        comparison=_optional(bench_folder / "comparison.json"),
        identical=(bench_folder / "identical.json").exists(),
        against=str(before.get("of", "")),
        goals=binding_goals(context.recipe.prune, _pruning(context)),
    )


def _pruning(context: Context) -> Any:
    return read_json(context.folders["prune"] / PRUNE) if "prune" in context.folders else None


def binding_goals(asked: PruneSection, story: Any) -> dict[str, tuple[float, float, str]]:
    """The goals of ``prune.json`` that hold whatever the tasks lose, as the gates take them."""
    if not isinstance(story, dict) or not goal_comes_first(asked):
        return {}
    goals, stopped_by = story.get("goals") or {}, str(story.get("stopped_by", ""))
    return {
        str(key): (float(goal["left"]), float(goal["asked"]), stopped_by if goal["missed"] else "")
        for key, goal in goals.items()
    }


def _figures(path: Path) -> dict[str, float | None]:
    data = read_json(path)
    return {key: float(data[key]) for key in ("macs", "parameters", "size_bytes")}


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None
