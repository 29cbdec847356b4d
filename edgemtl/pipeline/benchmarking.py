"""``bench``: latency of a bundle or an ONNX file, alone or in turns with another."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemtl import recipes, targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.first_run import try_artefact, try_graph
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle.read import open_bundle
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import UsageError
from edgemtl.exporting.metadata import read_metadata
from edgemtl.measure.results import BenchRequest, Comparison, InterleaveRule, LatencyResult
from edgemtl.measure.selfcheck import SelfCheck, self_check
from edgemtl.measure.timed import Around, bench_request
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.bench import LatencyRequest, measure_latency, stop_rule
from edgemtl.pipeline.export import ExportRequest, export_model
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.recipes import BenchSection, ModelSection, Recipe
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

#: who asks for figures alone waits longer for them than a run does
ASKED = BenchSection(min_runs=100, max_seconds=60.0)


def how_long(
    seconds: float, min_runs: int, max_seconds: float, warmup_seconds: float
) -> BenchSection:
    """How long to measure, within the limits of a recipe's ``[bench]``.

    Raises:
        UsageError: beyond them.
    """
    given = {
        "seconds": seconds,
        "min_runs": min_runs,
        "max_seconds": max_seconds,
        "warmup_seconds": warmup_seconds,
    }
    return recipes.validate({"bench": given}, "bench").bench


@dataclass(frozen=True)
class BenchFiles:
    """One file to be timed, or two.

    Attributes:
        path: bundle or ONNX file.
        against: the same, or a checkpoint, which is built as ``path`` was; None for ``path`` alone.
        how: how long; its ``threads`` and ``enabled`` are not read.
        threads: of the runtime; by default what a bundle was built with, one for an ONNX file.
        image: fed instead of the recorded input.
        backend: runtime of ONNX files.
        seed: of the order of turns.
        cooldown: seconds of rest before an unsteady measurement is taken again.
        factory: ``package.module:function`` of the user's own network, or None.
    """

    path: Path
    against: Path | None = None
    how: BenchSection = ASKED
    threads: int | None = None
    image: Path | None = None
    backend: str = registry.REFERENCE
    seed: int = 0
    cooldown: float = 1.0
    factory: str | None = None

    @property
    def turns(self) -> InterleaveRule:
        """How two files take turns."""
        return InterleaveRule(max_seconds=self.how.max_seconds)

    def runner_flags(self) -> list[str]:
        """The same for a bundle's runner on a device; what it does not know is left out."""
        flags = {
            "--warm-up": str(self.how.warmup_seconds),
            "--min-runs": str(self.how.min_runs),
            "--min-seconds": str(self.how.seconds),
        }
        if self.threads is not None:  # else the bundle says
            flags["--threads"] = str(self.threads)
        return [part for pair in flags.items() for part in pair]


def check_file(asked: BenchFiles, claim: float) -> SelfCheck:
    """Measure one file twice, and in turns with itself: how much noise there is here.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        request = _request(asked, asked.path, Path(folder) / "a")
        return self_check(request, claim, asked.turns)


def bench_files(asked: BenchFiles) -> LatencyResult | Comparison:
    """Measure one file, or two in turns.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    path, against = asked.path, asked.against
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        first = _request(asked, path, Path(folder) / "a")
        second: BenchRequest | None = None
        if against is not None and kind_of(against) == "checkpoint":
            second = _dense_request(asked, against, Path(folder) / "b")
        elif against is not None:
            second = _request(asked, against, Path(folder) / "b")
        found = measure_latency(
            LatencyRequest(first, second, rule=asked.turns, alone=second is None, same_bytes=True)
        )
    result = found.comparison or found.latency
    assert result is not None  # it was asked for one of them
    return result


def _dense_request(asked: BenchFiles, dense: Path, folder: Path) -> BenchRequest:
    """A checkpoint in float32, built for what a bundle or an ONNX file is built for."""
    path, network = asked.path, load_network(dense, asked.factory)
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
        target, options = _target_here(asked.backend), SessionOptions(threads=1)
    names = tuple(task.name for task in ours)
    recipe = Recipe(model=ModelSection(tasks=names))
    onnx = export_model(ExportRequest(network, target, recipe), folder).exported.path
    artefact = compile_for(target, onnx, folder / "built")
    tasks, spec = network.selected(list(names)), network.input_spec
    return _timed(asked, artefact, tasks, spec, options, None)


def _request(asked: BenchFiles, path: Path, folder: Path) -> BenchRequest:
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
        target = _target_here(asked.backend)
        try_graph(path, target)
        artefact = compile_for(target, path, folder)
        options = SessionOptions(threads=1)
    return _timed(asked, artefact, tasks, spec, options, recorded)


def _timed(
    asked: BenchFiles,
    artefact: Artefact,
    tasks: Sequence[Task],
    spec: InputSpec,
    options: SessionOptions,
    recorded: Path | None,
) -> BenchRequest:
    session = options if asked.threads is None else replace(options, threads=asked.threads)
    around = Around(tasks, spec, asked.image, recorded)
    stop = stop_rule(asked.how, asked.cooldown)
    return bench_request(artefact, session, stop, asked.seed, around)


def _target_here(backend_name: str) -> Target:
    """A target that is this machine, with this backend."""
    registry.get(backend_name)
    for name in targets.names():
        target = targets.load(name)
        if target.backend == backend_name and target.measured_here:
            return target
    raise UsageError(f"no target of this machine uses backend '{backend_name}'", where="--backend")
