"""What is asked of a benchmark and what it answers, as plain data with units in the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import InputRefused, UsageError
from edgemtl.measure.machine import MachineFacts
from edgemtl.measure.statistics import Ratio, Summary
from edgemtl.measure.telemetry import Telemetry


@dataclass(frozen=True)
class StopRule:
    """When warm-up and measurement end.

    Warm-up goes on until both its limits are reached. Measurement ends once ``min_runs`` *and*
    ``min_seconds`` are reached, or as soon as ``max_runs`` *or* ``max_seconds`` is. Before an
    unsteady measurement is taken again, the machine rests for ``cooldown_seconds``.
    """

    warmup_runs: int = 5
    warmup_seconds: float = 1.0
    min_runs: int = 100
    max_runs: int = 5000
    min_seconds: float = 3.0
    max_seconds: float = 30.0
    cooldown_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.cooldown_seconds < 0:
            raise UsageError("a benchmark needs cooldown_seconds of 0 or more")
        if not (0 < self.min_runs <= self.max_runs and self.warmup_runs >= 0):
            raise UsageError("a benchmark needs 0 < min_runs <= max_runs and warmup_runs >= 0")
        if not (0 <= self.min_seconds <= self.max_seconds and self.warmup_seconds >= 0):
            raise UsageError("a benchmark needs 0 <= min_seconds <= max_seconds")


@dataclass(frozen=True)
class BenchRequest:
    """One artefact to measure.

    Attributes:
        artefact: what to load.
        options: threads and precision of the session.
        image: a picture to letterbox into the input (needs ``input_spec``); with it pre- and
            post-processing are timed too.
        input_array: a .npy file holding the input as it is; wins over ``image`` as the input.
        tasks: task specifications as plain data, for timing post-processing.
        input_spec: the network's input as plain data.
        stop: when to stop.
        attempts: how often an unstable measurement is taken in all before it is reported as such.
        seed: of the noise that is fed when there is neither picture nor array.
        time_limit_seconds: for any one step of the worker (loading, warming up, measuring), beyond
            what the stop rule asks for.
    """

    artefact: Artefact
    options: SessionOptions = field(default_factory=SessionOptions)
    image: Path | None = None
    input_array: Path | None = None
    tasks: tuple[Mapping[str, Any], ...] = ()
    input_spec: Mapping[str, Any] | None = None
    stop: StopRule = field(default_factory=StopRule)
    attempts: int = 3
    seed: int = 0
    time_limit_seconds: float = 300.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the message that the worker gets."""
        artefact = self.artefact
        return {
            "artefact": {
                "backend": artefact.backend,
                "target": artefact.target,
                "folder": str(artefact.folder.resolve()),
                "files": list(artefact.files),
                "reproducible": artefact.reproducible,
                "facts": dict(artefact.facts),
            },
            "options": asdict(self.options),
            "picture": None if self.image is None else str(self.image.resolve()),
            "input_array": None if self.input_array is None else str(self.input_array.resolve()),
            "tasks": [dict(task) for task in self.tasks],
            "input_spec": None if self.input_spec is None else dict(self.input_spec),
            "stop": asdict(self.stop),
            "attempts": self.attempts,
            "seed": self.seed,
            "time_limit_seconds": self.time_limit_seconds,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> BenchRequest:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            made = data["artefact"]
            spec = data["input_spec"]
            return BenchRequest(
                artefact=Artefact(
                    backend=str(made["backend"]),
                    target=str(made["target"]),
                    folder=Path(made["folder"]),
                    files=tuple(str(name) for name in made["files"]),
                    reproducible=bool(made["reproducible"]),
                    facts=dict(made["facts"]),
                ),
                options=SessionOptions(**data["options"]),
                image=None if data["picture"] is None else Path(data["picture"]),
                input_array=None if data["input_array"] is None else Path(data["input_array"]),
                tasks=tuple(dict(task) for task in data["tasks"]),
                input_spec=None if spec is None else dict(spec),
                stop=StopRule(**data["stop"]),
                attempts=int(data["attempts"]),
                seed=int(data["seed"]),
                time_limit_seconds=float(data["time_limit_seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputRefused(f"a benchmark request is not readable: {error!r}") from error


@dataclass(frozen=True)
class Memory:
    """Resident memory of the worker process, in bytes.

    Attributes:
        start_bytes: Python and NumPy, before the runtime is imported.
        runtime_bytes: after the runtime is imported, before the artefact is loaded.
        loaded_bytes: after the artefact is loaded.
        peak_bytes: the most it ever was until the last timed run (task decoding not included).
    """

    start_bytes: int
    runtime_bytes: int
    loaded_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class LatencyResult:
    """What one artefact took.

    Attributes:
        samples_ms: every timed inference, in the order taken.
        summary: the same in a few figures.
        throughput_per_s: pictures per second, one inference after the other.
        import_ms: importing the runtime.
        load_ms: loading the artefact, runtime already imported.
        first_inference_ms: the very first inference, before warm-up.
        batch: pictures per inference.
        threads: threads asked for; 0 means that the runtime chose.
        process_threads: threads that the worker process had while measuring.
        memory: of the worker process.
        preprocess, postprocess: letterboxing one picture, decoding all tasks of one picture; None
            where there was no picture, input specification or task to do it with.
        machine: before the measurement; machine_after: right after it.
        fed: what the input was: ``image``, ``array`` or ``noise``.
        warmup_runs: inferences before the timed ones, the first included.
        attempts: measurements taken until one was stable (the last one is reported).
        trend: how much slower the run ended than it began, as a share; negative is faster.
        stable: whether the samples may be quoted.
        reason: one sentence when not stable, else empty.
        telemetry: what the machine did meanwhile; None where that was not recorded.
        kind: ``measured``; results that were modelled, emulated or proxied carry another word and
            never pass a gate.
    """

    samples_ms: tuple[float, ...]
    summary: Summary
    throughput_per_s: float
    import_ms: float
    load_ms: float
    first_inference_ms: float
    batch: int
    threads: int
    process_threads: int
    memory: Memory
    preprocess: Summary | None
    postprocess: Summary | None
    machine: MachineFacts
    machine_after: MachineFacts
    fed: str
    warmup_runs: int
    attempts: int
    trend: float
    stable: bool
    reason: str = ""
    kind: str = "measured"
    telemetry: Telemetry | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"samples_ms": list(self.samples_ms)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LatencyResult:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            pre, post = data["preprocess"], data["postprocess"]
            telemetry = data.get("telemetry")
            return LatencyResult(
                samples_ms=tuple(float(v) for v in data["samples_ms"]),
                summary=Summary.from_dict(data["summary"]),
                throughput_per_s=float(data["throughput_per_s"]),
                import_ms=float(data["import_ms"]),
                load_ms=float(data["load_ms"]),
                first_inference_ms=float(data["first_inference_ms"]),
                batch=int(data["batch"]),
                threads=int(data["threads"]),
                process_threads=int(data["process_threads"]),
                memory=Memory(**{key: int(value) for key, value in data["memory"].items()}),
                preprocess=None if pre is None else Summary.from_dict(pre),
                postprocess=None if post is None else Summary.from_dict(post),
                machine=MachineFacts.from_dict(data["machine"]),
                machine_after=MachineFacts.from_dict(data["machine_after"]),
                fed=str(data["fed"]),
                warmup_runs=int(data["warmup_runs"]),
                attempts=int(data["attempts"]),
                trend=float(data["trend"]),
                stable=bool(data["stable"]),
                reason=str(data.get("reason", "")),
                kind=str(data["kind"]),
                telemetry=None if telemetry is None else Telemetry.from_dict(telemetry),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a latency result is not readable: {error!r}") from error


@dataclass(frozen=True)
class InterleaveRule:
    """How two artefacts take turns.

    Attributes:
        pairs: blocks of each, at most.
        min_pairs: blocks of each before ``max_seconds`` may end the comparison.
        block_seconds: length of one block of the slower one; both get the same number of runs.
        settle_runs: untimed runs at the start of each block, because the other process has just
            filled the caches; the same for both.
        max_seconds: of all blocks together.
    """

    pairs: int = 40
    min_pairs: int = 10
    block_seconds: float = 0.25
    settle_runs: int = 2
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (2 <= self.min_pairs <= self.pairs and self.settle_runs >= 0):
            raise UsageError("a comparison needs 2 <= min_pairs <= pairs and settle_runs >= 0")
        if self.block_seconds <= 0 or self.max_seconds <= 0:
            raise UsageError("a comparison needs block_seconds and max_seconds above 0")


@dataclass(frozen=True)
class Comparison:
    """How much faster A is than B.

    Attributes:
        speedup: ``median(B) / median(A)`` with its 95 % interval: 2 means that A takes half of
            B's time. Its ``stable`` and ``reason`` say whether it may be quoted.
        a, b: the two, from the same interleaved runs.
        pairs: blocks of each.
        runs_per_block: timed runs per block.
        order: who ran when, as a string of ``A`` and ``B``.
        seed: of the order and of the bootstrap.
    """

    speedup: Ratio
    a: LatencyResult
    b: LatencyResult
    pairs: int
    runs_per_block: int
    order: str
    seed: int

    @property
    def stable(self) -> bool:
        """Whether the speed-up may be quoted."""
        return self.speedup.stable

    @property
    def reason(self) -> str:
        """One sentence when not stable, else empty."""
        return self.speedup.reason

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"a": self.a.to_dict(), "b": self.b.to_dict()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Comparison:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            ratio = data["speedup"]
            return Comparison(
                speedup=Ratio(
                    float(ratio["value"]),
                    float(ratio["low"]),
                    float(ratio["high"]),
                    bool(ratio["stable"]),
                    str(ratio["reason"]),
                ),
                a=LatencyResult.from_dict(data["a"]),
                b=LatencyResult.from_dict(data["b"]),
                pairs=int(data["pairs"]),
                runs_per_block=int(data["runs_per_block"]),
                order=str(data["order"]),
                seed=int(data["seed"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"a comparison is not readable: {error!r}") from error
