"""``gate``: stored results of a run or a bundle, judged again, alone or against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgemtl import recipes
from edgemtl.bundle.read import open_bundle
from edgemtl.errors import ExitCode, InputRefused
from edgemtl.files import read_json, write_json
from edgemtl.gates.judge import GateReport
from edgemtl.gates.junit import write_junit
from edgemtl.gates.limits import GateLimits
from edgemtl.gates.regression import RegressionReport, compare
from edgemtl.gates.snapshot import LatencySamples, Snapshot, thinned
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.pipeline.baselines import read_snapshot
from edgemtl.pipeline.gate import judge_measured
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.pipeline.reference_accuracy import accuracy_for_stored
from edgemtl.recipes import PruneSection, Recipe
from edgemtl.record.run_record import (
    ACCURACY,
    GATES,
    JUNIT,
    RUN,
    Measured,
    RunRecord,
    metric_rows,
    versioned,
)


def judge_stored(
    path: Path,
    config: Path | Recipe | None,
    assignments: Sequence[str],
    results: Path | None,
    reference: Path | None = None,
    factory: str | None = None,
) -> GateReport:
    """Judge a run folder, or a bundle with what the runner measured on the device.

    Nothing is measured but the accuracy of a reference, once per its weights and the pictures.

    Args:
        path: run folder or bundle.
        config: recipe whose ``[gates]`` replace the stored ones.
        assignments: values of ``--set`` on top.
        results: ``results.json`` of the bundle's runner.
        reference: dense network to hold the tasks against, on the pictures of the stored run.
        factory: builds the user's own network.

    Raises:
        InputRefused: no results there, or not readable; the reference or the pictures are refused.
        UsageError: the recipe or an assignment is not valid.
    """
    stored = _stored(path, results)
    if reference is not None:
        stored = stored.against(_accuracy_of(path, reference, factory))
    limits = _limits(stored.gates, config, assignments)
    return _judged(limits, stored, path)


def _judged(limits: GateLimits, stored: _Stored, path: Path) -> GateReport:
    try:
        return judge_measured(limits, stored.measured, stored.pruned).report
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"the run is not readable: {error!r}", where=str(path)) from error


def hold_run_against(folder: Path, reference: Path, factory: str | None) -> GateReport:
    """Put a reference in as what a run is held against: accuracy, verdicts and exit code anew.

    Raises:
        InputRefused, UsageError: as :func:`judge_stored`.
        StageFailed: the folder cannot be written.
    """
    dense = _accuracy_of(folder, reference, factory)
    stored = _of_run(folder)
    report = _judged(_limits(stored.gates, None, ()), stored.against(dense), folder)
    held = {**stored.measured.accuracy, "reference": dense.to_dict()}
    write_json(folder / ACCURACY, versioned(held))
    write_json(folder / GATES, versioned(report.to_dict()))
    write_junit(report, folder / JUNIT)
    run = read_json(folder / RUN)
    if run.get("error") is None:
        code = report.exit_code()
        status = "passed" if code == ExitCode.OK else "gates failed"
        write_json(folder / RUN, {**run, "status": status, "exit_code": int(code)})
    return report


def _accuracy_of(path: Path, reference: Path, factory: str | None) -> AccuracyReport:
    """A reference on the pictures of a stored run or bundle."""
    if path.is_dir():
        record = RunRecord.open(path)
        measured, recipe = record.measured(), record.facts.get("recipe")
        primary = {name: row["primary"] for name, row in measured.metrics.items()}
        artefact = measured.accuracy.get("artefact")
    else:
        bundle = open_bundle(path)
        primary = {task.name: {"key": task.primary.key} for task in bundle.tasks()}
        recipe, artefact = bundle.manifest.recipe, bundle.manifest.accuracy.bundle
    if not isinstance(artefact, dict) or not isinstance(recipe, dict):
        raise InputRefused("no accuracy was measured there", where=str(path))
    return accuracy_for_stored(reference, factory, recipe, primary, artefact)


@dataclass(frozen=True)
class Compared:
    """What was compared.

    Attributes:
        snapshot: the run's own figures.
        regression: None without a baseline.
    """

    snapshot: Snapshot
    regression: RegressionReport | None


def compare_stored(
    path: Path,
    baseline: str | None,
    config: Path | Recipe | None,
    assignments: Sequence[str],
    results: Path | None,
) -> Compared:
    """Hold a run's or a bundle's figures against a baseline.

    Args:
        path: run folder or bundle.
        baseline: what :func:`edgemtl.pipeline.baselines.read_snapshot` reads; None for nothing.
        config, assignments, results: as :func:`judge_stored`.

    Raises:
        InputRefused, UsageError, TargetUnavailable: a side cannot be read.
    """
    snapshot = read_snapshot(str(path))
    if results is not None:
        latency = _device_samples(read_json(results), results)
        snapshot = replace(snapshot, latency=latency)
    if baseline is None:
        return Compared(snapshot, None)
    limits = _limits(_stored(path, results).gates, config, assignments)
    return Compared(snapshot, compare(read_snapshot(baseline), snapshot, limits))


def _limits(
    stored: Mapping[str, Any], config: Path | Recipe | None, assignments: Sequence[str]
) -> GateLimits:
    base = {} if config is not None else {"gates": stored}
    return recipes.resolve(base, config, assignments, {}).gates


@dataclass(frozen=True)
class _Stored:
    """What was measured, the ``[gates]`` it was judged by, and what was asked of pruning."""

    measured: Measured
    gates: Mapping[str, Any]
    pruned: PruneSection

    def against(self, dense: AccuracyReport) -> _Stored:
        """The same, with another network as what the tasks are held against."""
        accuracy = {**self.measured.accuracy, "reference": dense.to_dict()}
        return replace(self, measured=replace(self.measured, accuracy=accuracy))


def _stored(path: Path, results: Path | None) -> _Stored:
    if path.is_dir():
        return _of_run(path)
    if kind_of(path) == "bundle":
        return _of_bundle(path, results)
    raise InputRefused("neither a run folder nor a bundle", where=str(path))


def _device_samples(data: Any, where: Path) -> LatencySamples:
    """The runner's timings; that they are this bundle's has been checked with the gates."""
    try:
        latency, device = data["latency"], data.get("device") or {}
        return LatencySamples(
            thinned([float(value) for value in latency["samples_ms"]]),
            str(device.get("board") or device.get("processor") or device.get("machine") or ""),
            int(latency.get("threads", 0)),
            str(latency.get("kind", "measured")),
            bool(latency["stable"]),
            str(latency.get("reason", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"the results are not readable: {error!r}", where=str(where)) from error


def _of_run(folder: Path) -> _Stored:
    record = RunRecord.open(folder)
    return _Stored(record.measured(), record.gates, _asked(record.facts.get("recipe"), folder))


def _asked(recipe: Any, where: Path) -> PruneSection:
    """What a stored recipe asked of pruning."""
    try:
        return PruneSection.model_validate(recipe.get("prune") or {})
    except (ValueError, AttributeError) as error:
        raise InputRefused(f"the run is not readable: {error!r}", where=str(where)) from error


def _of_bundle(path: Path, results: Path | None) -> _Stored:
    bundle = open_bundle(path)
    manifest = bundle.manifest
    latency = comparison = None
    if results is not None:
        data = read_json(results)
        latency = _device_latency(data, bundle.manifest_sha256, results)
        comparison = _device_comparison(data, results)
    cost = {"reference": manifest.cost.before, "artefact": manifest.cost.after}
    hashes = [(side or {}).get("artefact_sha256") for side in cost.values()]
    # Before the device has answered, nothing about its latency is known, not even a ratio of one.
    asked = latency is not None or "runs_here_as" not in manifest.artefact.facts
    measured = Measured(
        {task.name: metric_rows(task) for task in bundle.tasks()},
        {"reference": manifest.accuracy.reference, "artefact": manifest.accuracy.bundle},
        cost,
        latency,
        comparison,
        asked and hashes[0] is not None and hashes[0] == hashes[1],
    )
    if manifest.pruning is None:  # nothing was pruned, or the bundle is from before version 3
        return _Stored(measured, manifest.gates, PruneSection())
    pruned = replace(measured, pruning=manifest.pruning.model_dump())
    return _Stored(pruned, manifest.gates, _asked(manifest.recipe, path))


def _device_latency(data: Any, manifest_sha256: str, where: Path) -> dict[str, Any]:
    """The runner's latency in the shape that gates judge.

    Raises:
        InputRefused: another bundle's results, or none of a runner.
    """
    try:
        if data["manifest_sha256"] != manifest_sha256:
            raise InputRefused(
                "these are the results of another bundle",
                where=str(where),
                hint="run 'python BUNDLE bench --output results.json' on the device",
            )
        latency = data["latency"]
        return {
            "kind": str(latency.get("kind", "measured")),
            "stable": bool(latency["stable"]),
            "reason": str(latency.get("reason", "")),
            "summary": {key: float(latency[key]) for key in ("p50_ms", "p90_ms", "p99_ms")},
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"the results are not readable: {error!r}", where=str(where)) from error


def _device_comparison(data: Any, where: Path) -> dict[str, Any] | None:
    """Artefact and uncompressed network as the runner timed them in turns; None when it did not.

    Raises:
        InputRefused: not readable.
    """
    try:
        found = data.get("comparison")
        if found is None:
            return None
        speedup = found["speedup"]
        figures = {key: float(speedup[key]) for key in ("value", "low", "high")}
        if not all(0 < figure < math.inf for figure in figures.values()):
            raise ValueError("a speed-up that is not positive")
        stable, reason = bool(speedup["stable"]), str(speedup["reason"])
        sides = {side: {"kind": str(found[side]["kind"])} for side in ("a", "b")}
        return {"speedup": {**figures, "stable": stable, "reason": reason}, **sides}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"the results are not readable: {error!r}", where=str(where)) from error
