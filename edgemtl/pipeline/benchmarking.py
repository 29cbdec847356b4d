"""``bench``: latency of a bundle or an ONNX file, alone or in turns with another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle.read import open_bundle
from edgemtl.errors import UsageError
from edgemtl.export.metadata import read_metadata
from edgemtl.measure.latency import BenchRequest, InterleaveRule, StopRule, bench, compare
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.selfcheck import SelfCheck, self_check
from edgemtl.pipeline.loaded_model import kind_of


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
    backend: str = "onnxruntime"
    seed: int = 0
    cooldown: float = 1.0


def check_file(path: Path, claim: float, timing: Timing, tell: Callable[[str], None]) -> SelfCheck:
    """Measure one file twice, and in turns with itself: how much noise there is here.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        request = _request(path, timing, Path(folder) / "a")
        return self_check(request, claim, InterleaveRule(max_seconds=timing.max_seconds), tell)


def bench_files(
    path: Path, against: Path | None, timing: Timing, tell: Callable[[str], None]
) -> LatencyResult | Comparison:
    """Measure one file, or two in turns.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs.
        InputRefused, TargetUnavailable, StageFailed: as the steps say.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        first = _request(path, timing, Path(folder) / "a")
        if against is None:
            return bench(first, tell)
        second = _request(against, timing, Path(folder) / "b")
        rule = InterleaveRule(max_seconds=timing.max_seconds)
        return compare(first, second, rule, timing.seed, tell)


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
        tasks, spec = bundle.tasks(), bundle.input_spec()
        options = bundle.session_options()
        recorded = folder / "selftest-input.npy"
        np.save(recorded, bundle.selftest().inputs[0])
    else:
        tasks, spec = read_metadata(path)
        artefact = _from_onnx(path, timing.backend, folder)
        options = SessionOptions(threads=1)
    return BenchRequest(
        artefact,
        options if timing.threads is None else replace(options, threads=timing.threads),
        picture=timing.picture,
        input_array=recorded if timing.picture is None else None,
        tasks=tuple(task.spec().to_dict() for task in tasks),
        input_spec=spec.to_dict(),
        stop=StopRule(
            warmup_seconds=timing.warmup_seconds,
            min_runs=timing.min_runs,
            min_seconds=min(timing.seconds, timing.max_seconds),
            max_seconds=timing.max_seconds,
            cooldown_seconds=timing.cooldown,
        ),
        seed=timing.seed,
    )


def _from_onnx(path: Path, backend_name: str, folder: Path) -> Artefact:
    from edgemtl import targets
    from edgemtl.backends import registry

    backend = registry.get(backend_name)
    for name in targets.names():
        target = targets.load(name)
        if target.backend == backend_name and target.measured_here:
            return backend.compile(path, target, folder)
    raise UsageError(f"no target of this machine uses backend '{backend_name}'", where="--backend")
