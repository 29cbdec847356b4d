"""Figures to compare, from whatever holds them: run, bundle, committed file, base commit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl.bundle.read import open_bundle
from edgemtl.errors import InputRefused, TargetUnavailable, UsageError
from edgemtl.files import read_json
from edgemtl.gates.snapshot import COST_KEYS, LatencySamples, Snapshot, TaskFigure, thinned
from edgemtl.measure.results import LatencyResult
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.record.run_record import RunRecord, metric_rows

#: ``git:REVISION:PATH``: the file as it was committed there
GIT = "git:"


def read_snapshot(place: str) -> Snapshot:
    """The figures of a run folder, a bundle, a baseline file, or ``git:REVISION:PATH``.

    Raises:
        InputRefused: none of these, or not readable.
        UsageError: ``git:`` without a revision or a path.
        TargetUnavailable: ``git:`` where there is no git.
    """
    if place.startswith(GIT):
        return _committed(place)
    path = Path(place)
    if path.is_dir():
        return snapshot_of_run(path)
    if kind_of(path) == "bundle":
        return _of_bundle(path)
    return Snapshot.from_dict(read_json(path), place)


def snapshot_of_run(folder: Path) -> Snapshot:
    """The figures of a run folder.

    Raises:
        InputRefused: no run, or not readable.
    """
    record = RunRecord.open(folder)
    run, measured, latency = record.facts, record.measured(), record.latency()
    try:
        target = run["target"]["name"]
        return Snapshot(
            name=f"{run['name']} for {target}",
            **_accuracy(measured.accuracy.get("artefact") or {}, measured.metrics),
            cost=_cost(measured.cost.get("artefact")),
            latency=None if latency is None else _latency(latency),
            source={
                "model_sha256": str(run["model"]["source_sha256"]),
                "target": str(target),
                "edgemtl": str(run["versions"].get("edgemtl", "")),
                "machine": str(run["machine"].get("cpu", "")),
                "started_utc": str(run["started_utc"]),
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise record.refusal(error) from error


def _of_bundle(path: Path) -> Snapshot:
    manifest = open_bundle(path)
    entry = manifest.manifest
    metrics = {task.name: metric_rows(task) for task in manifest.tasks()}
    try:
        return Snapshot(
            name=f"{entry.name} for {entry.target.name}",
            **_accuracy(entry.accuracy.bundle or {}, metrics),
            cost=_cost(entry.cost.after),
            source={
                "model_sha256": entry.source_sha256,
                "target": entry.target.name,
                "edgemtl": entry.created_by.get("edgemtl", ""),
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused(f"the bundle's figures: {error!r}", where=str(path)) from error


def _accuracy(report: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    tasks = {}
    for task, values in report.get("tasks", {}).items():
        spec = metrics[task]
        rows = [(spec["primary"], True), *((row, False) for row in spec["secondary"])]
        tasks[str(task)] = {
            str(row["key"]): TaskFigure(
                None if values.get(row["key"]) is None else float(values[row["key"]]),
                str(row["direction"]),
                str(row["label"]),
                str(row["unit"]),
                primary,
            )
            for row, primary in rows
        }
    images = report.get("images")
    return {
        "tasks": tasks,
        "data": str(report.get("data", "")),
        "images": None if images is None else int(images),
    }


def _cost(side: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: float(side[key]) for key in COST_KEYS if side and side.get(key) is not None}


def _latency(result: LatencyResult) -> LatencySamples:
    return LatencySamples(
        thinned(result.samples_ms),
        result.machine.cpu,
        result.threads,
        result.kind,
        result.stable,
        result.reason,
    )


def _committed(place: str) -> Snapshot:
    revision, colon, path = place.removeprefix(GIT).partition(":")
    if not colon or not revision or not path or revision.startswith("-"):
        raise UsageError("write git:REVISION:PATH", where=place, hint="e.g. git:origin/main:b.json")
    if shutil.which("git") is None:
        raise TargetUnavailable("git is not installed here", where=place)
    command = ["git", "show", "--no-textconv", f"{revision}:./{path}"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["git show failed"]
        raise InputRefused(said[0].removeprefix("fatal: "), where=place)
    try:
        data = json.loads(done.stdout)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"not readable JSON: {error}", where=place) from error
    return Snapshot.from_dict(data, place)
