"""``edgemtl.bench`` and ``parity``: how fast a network is, and whether two forms are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgemtl.api.asking import (
    AnyPath,
    AnyTarget,
    Data,
    Factory,
    factory_of,
    folders,
    optional_path,
    path_of,
    target_of,
)
from edgemtl.api.outcome import Latency, Outcome, latency_of
from edgemtl.backends.registry import REFERENCE
from edgemtl.errors import ExitCode, ParityFailed, UsageError
from edgemtl.exporting.parity import OutputParity
from edgemtl.measure.results import LatencyResult
from edgemtl.measure.statistics import Ratio
from edgemtl.pipeline.benchmarking import BenchFiles, bench_files, how_long
from edgemtl.pipeline.paritycheck import ParityFiles, compare_files
from edgemtl.progress import ProgressCallback, listening
from edgemtl.report.told import parity_line


@dataclass(frozen=True)
class Timed(Outcome):
    """Latency on this machine, of one file or of two in turns.

    Attributes:
        latency: of the file.
        against: of the other one; None without one.
        speedup: how many times as fast as the other one the file is, with its 95 % interval
            (``low`` to ``high``); None without one.
    """

    latency: Latency
    against: Latency | None = None
    speedup: Ratio | None = None

    @property
    def stable(self) -> bool:
        """Whether the figures may be quoted."""
        return self.latency.stable if self.speedup is None else self.speedup.stable

    @property
    def exit_code(self) -> ExitCode:
        """9 where the measurement is not stable, else 0."""
        return ExitCode.OK if self.stable else ExitCode.UNSTABLE

    @property
    def reason(self) -> str:
        """Why it is not stable; empty if it is."""
        return self.latency.reason if self.speedup is None else self.speedup.reason

    def __str__(self) -> str:
        if self.against is None or self.speedup is None:
            return str(self.latency)
        ratio = self.speedup
        speed = f"{ratio.value:.3f} x as fast (95 % interval {ratio.low:.3f} to {ratio.high:.3f})"
        unsteady = "" if ratio.stable else f"; not stable: {ratio.reason}"
        return f"{self.latency}\nagainst {self.against}\n{speed}{unsteady}"


def bench(
    artefact: AnyPath,
    *,
    against: AnyPath | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    min_runs: int = 100,
    max_seconds: float = 60.0,
    warmup_seconds: float = 1.0,
    cooldown: float = 1.0,
    image: AnyPath | None = None,
    backend: str | None = None,
    seed: int = 0,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Timed:
    """Measure latency on this machine, in a process of its own per file.

    A measurement that is not stable does not raise: ``timed.stable`` and ``timed.reason`` say it.

    Args:
        artefact: bundle, or ONNX file that EdgeMTL wrote.
        against: bundle, ONNX file or dense checkpoint to measure in turns with; a checkpoint is
            built in float32 for what the artefact is built for.
        threads: of the runtime; 0 lets it choose; the bundle's by default, 1 for an ONNX file.
        seconds: time at least so many seconds ...
        min_runs: ... and at least so many inferences.
        max_seconds: stop after so many seconds in any case.
        warmup_seconds: of inferences that are not counted.
        cooldown: seconds to rest before an unsteady measurement is taken again.
        image: fed instead of the recorded input.
        backend: runtime for an ONNX file; a bundle has its own.
        seed: of the order of turns.
        factory: of a checkpoint in ``against``, as for :func:`edgemtl.load_model`.
        progress: is told how far it is.

    Raises:
        UsageError: a checkpoint is given, which has nothing that a device runs; or more seconds or
            runs are asked for than makes sense.
        InputRefused: a file is refused.
        TargetUnavailable: the runtime does not work here.
        StageFailed: the artefact cannot run.
    """
    how = how_long(seconds, min_runs, max_seconds, warmup_seconds)
    asked = BenchFiles(
        *(path_of(artefact), optional_path(against), how, threads, optional_path(image)),
        *(backend or REFERENCE, seed, cooldown, factory_of(factory, against)),
    )
    with listening(progress):
        found = bench_files(asked)
    if isinstance(found, LatencyResult):
        return Timed(latency_of(found))
    return Timed(latency_of(found.a), latency_of(found.b), found.speedup)


@dataclass(frozen=True)
class Compared(Outcome):
    """Two forms of a network on the same pictures.

    Attributes:
        tasks: task -> whether all its outputs agree.
        outputs: each with ``name``, ``task``, ``ok`` and ``difference``.
        images: pictures compared.
        allowed: largest difference, as a share of an output's range.
        culprit: the first layer or the runtime that differs, in a sentence; empty where nobody
            looked.
    """

    tasks: Mapping[str, bool]
    outputs: tuple[OutputParity, ...]
    images: int
    allowed: float
    culprit: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """5 where a task differs, or nothing was compared; else 0."""
        agree = bool(self.tasks) and all(self.tasks.values())
        return ExitCode.OK if agree else ExitCode.PARITY

    @property
    def reason(self) -> str:
        """Which outputs differ; empty if none does."""
        if self.passed:
            return ""
        names = ", ".join(f"'{output.name}'" for output in self.outputs if not output.ok)
        return f"outputs {names} differ by more than {self.allowed:g} of their ranges"

    def raise_for_gates(self) -> None:
        """Do nothing if the two agree.

        Raises:
            ParityFailed: they do not.
        """
        if not self.passed:
            raise ParityFailed(self.reason, hint=self.culprit or None)

    def __str__(self) -> str:
        return "\n".join([*map(parity_line, self.outputs), *filter(None, [self.culprit])])


def parity(
    a: AnyPath,
    b: AnyPath,
    *,
    data: Data = None,
    split: str = "val",
    images: int = 4,
    precision: str = "fp32",
    target: AnyTarget | None = None,
    bisect: bool = False,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Compared:
    """Compare two forms of a network, per output and per task.

    Outputs that differ do not raise: ``compared.passed`` and ``compared.outputs`` say it.

    Args:
        a: the reference: checkpoint, ONNX file or bundle.
        b: what is compared with it.
        data: folders with pictures; the embedded set by default.
        split: of the folders.
        images: to compare on, 1 or more.
        precision: whose tolerance holds: fp32, fp16, bf16 or int8 (the last two only inform).
        target: run ONNX files in this target's runtime; in ONNX Runtime by default.
        bisect: also find the first layer that differs, or the runtime if the graphs agree.
        factory: as for :func:`edgemtl.load_model`.
        progress: is told how far it is.

    Raises:
        UsageError: an unknown precision, or nothing in common to compare.
        InputRefused: a file or the data is refused.
        TargetUnavailable: a runtime does not work here.
    """
    if images < 1:
        raise UsageError("at least one picture is needed", where="images")
    suited = None if target is None else target_of(target)
    made_by = factory_of(factory, a) or factory_of(factory, b)
    files = ParityFiles(
        *(path_of(a), path_of(b), folders(data), split, images, precision, bisect, made_by, suited)
    )
    with listening(progress):
        found = compare_files(files)
    report, culprit = found.report, found.culprit
    return Compared(
        *(dict(report.tasks), report.outputs, report.inputs, report.tolerance.max_relative),
        "" if culprit is None else culprit.told(),
    )
