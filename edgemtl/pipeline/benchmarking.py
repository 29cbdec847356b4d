"""``bench``: latency of a bundle or an ONNX file, alone or in turns with another."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.first_run import try_artefact, try_graph
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle.read import open_bundle
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import UsageError
from edgemtl.exporting.metadata import read_metadata
from edgemtl.measure.latency import BenchRequest, InterleaveRule, StopRule, bench, compare
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.selfcheck import SelfCheck, self_check
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.bench import Around, bench_request
from edgemtl.pipeline.export import ExportRequest, export_model
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.recipes import ModelSection, Recipe
from edgemtl.targets import Target
from edgemtl.tasks.base import Task


@dataclass(frozen=True)
class Timing:
    """How to measure; see the flags of ``edgemtl bench``.

    Attributes:
        threads: of the runtime; by default what a bundle was built with, one for an ONNX file.
    """

    threads: int | None = None
    seconds: float = 3.0
    min_runs: int = 100
    max_seconds: float = 60.0
    warmup_seconds: float = 1.0
    picture: Path | None = None
    backend: str = registry.REFERENCE
    seed: int = 0
    cooldown: float = 1.0


def check_file(path: Path, claim: float, timing: Timing) -> SelfCheck:
    """Measure one file twice, and in turns with itself: how much noise there is here.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        request = _request(path, timing, Path(folder) / "a")
        return self_check(request, claim, InterleaveRule(max_seconds=timing.max_seconds))


def bench_files(
    path: Path,
    against: Path | None,
    timing: Timing,
    factory: str | None = None,
) -> LatencyResult | Comparison:
    """Measure one file, or two in turns.

    Args:
        path: bundle or ONNX file.
        against: the same, or a checkpoint, which is built as ``path`` was.
        timing: how to measure.
        factory: builds the user's own network.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        first = _request(path, timing, Path(folder) / "a")
        if against is None:
            return bench(first)
        if kind_of(against) == "checkpoint":
            second = _dense_request(path, against, timing, Path(folder) / "b", factory)
        else:
            second = _request(against, timing, Path(folder) / "b")
        rule = InterleaveRule(max_seconds=timing.max_seconds)
        return compare(first, second, rule, timing.seed)


def _dense_request(
    path: Path, dense: Path, timing: Timing, folder: Path, factory: str | None
) -> BenchRequest:
    """A checkpoint in float32, built for what a bundle or an ONNX file is built for."""
    network = load_network(dense, factory)
    folder.mkdir()
    if kind_of(path) == "bundle":
        bundle = open_bundle(path)
        entry, ours = bundle.manifest.target, bundle.tasks()
        target = targets.load(entry.name)
        if target.backend != entry.backend:
            target = registry.with_backend(target, entry.backend)
        options = bundle.session_options()
    else:
        ours, _ = read_metadata(path)
        target, options = _target_here(timing.backend), SessionOptions(threads=1)
    names = tuple(task.name for task in ours)
    recipe = Recipe(model=ModelSection(tasks=names))
    onnx = export_model(ExportRequest(network, target, recipe), folder).exported.path
    artefact = compile_for(target, onnx, folder / "built")
    return _bench_request(
        artefact, timing, network.selected(list(names)), network.input_spec, options, None
    )


def _request(path: Path, timing: Timing, folder: Path) -> BenchRequest:
    kind = kind_of(path)
    if kind == "checkpoint":
        raise UsageError(
            "a checkpoint is not what a device runs",
            where=str(path),
            hint="compile it first, then bench the bundle",
        )
    folder.mkdir()
    recorded: Path | None = None
    if kind == "bundle":
        bundle = open_bundle(path)
        artefact = bundle.artefact(folder)
        try_artefact(artefact, path)
        tasks, spec = bundle.tasks(), bundle.input_spec()
        options = bundle.session_options()
        recorded = folder / "selftest-input.npy"
        np.save(recorded, bundle.selftest().inputs[0])
    else:
        tasks, spec = read_metadata(path)
        artefact = _from_onnx(path, timing.backend, folder)
        options = SessionOptions(threads=1)
    return _bench_request(artefact, timing, tasks, spec, options, recorded)


def _bench_request(
    artefact: Artefact,
    timing: Timing,
    tasks: Sequence[Task],
    spec: InputSpec,
    options: SessionOptions,
    recorded: Path | None,
) -> BenchRequest:
    stop = StopRule(
        warmup_seconds=timing.warmup_seconds,
        min_runs=timing.min_runs,
        min_seconds=min(timing.seconds, timing.max_seconds),
        max_seconds=timing.max_seconds,
        cooldown_seconds=timing.cooldown,
    )
    session = options if timing.threads is None else replace(options, threads=timing.threads)
    around = Around(tasks, spec, timing.picture, recorded)
    return bench_request(artefact, session, stop, timing.seed, around)


def _from_onnx(path: Path, backend_name: str, folder: Path) -> Artefact:
    target = _target_here(backend_name)
    try_graph(path, target)
    return compile_for(target, path, folder)


def _target_here(backend_name: str) -> Target:
    """A target that is this machine, with this backend."""
    registry.get(backend_name)
    for name in targets.names():
        target = targets.load(name)
        if target.backend == backend_name and target.measured_here:
            return target
    raise UsageError(f"no target of this machine uses backend '{backend_name}'", where="--backend")
