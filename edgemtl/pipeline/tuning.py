"""``tune``: which tile of accumulators is fastest for each operator, measured on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.processor import processor_name
from edgemtl.backends.tuner import Measurement, Tuner, fastest
from edgemtl.errors import InputRefused, UsageError
from edgemtl.files import write_text
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.loaded_model import kind_of
from edgemtl.progress import Progress, report
from edgemtl.targets import Target


@dataclass(frozen=True)
class Tuning:
    """What tuning came to.

    Attributes:
        operators: of the network, each shape once.
        measured: of these, by this run.
        records: file of all measurements.
        target: file that ``compile --target`` takes; None where not every operator is measured.
    """

    operators: int
    measured: int
    records: Path
    target: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "records": str(self.records), "target": str(self.target or "")}


def tune(
    model: Path,
    target_name: str,
    output: Path,
    factory: str | None = None,
    tiles: int = 6,
    seconds: float = 1.0,
) -> Tuning:
    """Measure tiles; what ``output`` holds already is not measured again.

    Every operator is reported (:mod:`edgemtl.progress`), with what was found.

    Args:
        model: checkpoint or ONNX file.
        target_name: of a target whose backend tunes, and that this machine is.
        output: JSON lines; the target file is written beside it.
        factory: of the user's own network.
        tiles: measured per operator, the likeliest first.
        seconds: of timing per operator.

    Raises:
        UsageError: not such a target.
        InputRefused: ``output`` is not a file of records.
        StageFailed: the compiler failed, died or hung; what was measured is kept.
    """
    target = tunable(target_name)
    backend = registry.get(target.backend)
    backend.require()
    tuner = backend.tuner()
    log = Log.open(output, tuner)
    machine, processor = processor_name(), tuner.processor(target)
    have = log.measured(processor, machine)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        onnx = onnx_of(model, Path(folder), target_name, factory)
        operators, measurements = tuner.measure(onnx, target, machine, have, None, tiles, seconds)
        begun = done = len(have.intersection(operators))
        report(Progress("measuring tiles", done, len(operators), "operators"))
        for found in measurements:
            log.add(found)
            done += 1
            detail = tuner.told(found)
            report(Progress("measuring tiles", done, len(operators), "operators", detail=detail))
    written = None
    if done == len(operators):
        written = log.write_target(target, processor, machine)
    return Tuning(len(operators), done - begun, output, written)


def tunable(name: str) -> Target:
    """The target of this name.

    Raises:
        UsageError: its tiles cannot be measured on the processor that tunes.
    """
    target = targets.load(name)
    if not registry.get(target.backend).capabilities.tunes or not target.measured_here:
        raise UsageError("only a target of TVM that this machine is can be tuned here",
                         where=target.name, hint="--target tvm-x86")  # fmt: skip
    return target


def onnx_of(model: Path, folder: Path, target_name: str, factory: str | None) -> Path:
    """The model as ONNX; exported into ``folder`` where it is a checkpoint."""
    if kind_of(model) == "onnx":
        return model
    onnx = folder / "model.onnx"
    export_file(model, onnx, targets.load(target_name), factory=factory)
    return onnx


@dataclass
class Log:
    """A file of measurements, one JSON line each.

    Attributes:
        path: of the file.
        records: in it, oldest first.
        before: how many were there when it was opened.
    """

    path: Path
    records: list[Measurement]
    before: int

    @staticmethod
    def open(path: Path, tuner: Tuner) -> Log:
        """Read it, by the tuner whose records are in it; there need not be one.

        Raises:
            InputRefused: it holds something else.
        """
        records = read_records(path, tuner)
        return Log(path, records, len(records))

    def of(self, processor: str, machine: str) -> list[Measurement]:
        """Records that can be compared with this machine's: of its compiler's name and its kind."""
        return [
            one
            for one in self.records
            if one.processor == processor and one.machine in ("", machine)
        ]

    def measured(self, processor: str, machine: str) -> set[str]:
        """Keys of the operators of :meth:`of`."""
        return {one.operator for one in self.of(processor, machine)}

    def keys(self) -> list[tuple[str, str, str]]:
        """The compiler's name, machine and operator of all records."""
        return sorted({(one.processor, one.machine, one.operator) for one in self.records})

    def add(self, found: Sequence[Measurement]) -> None:
        """Write records at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(map(_line, found))
        self.records += found

    def sort(self, operators: Sequence[str]) -> None:
        """Put what came since it was opened in the order of operators, as one machine would."""
        old, new = self.records[: self.before], self.records[self.before :]
        place = {key: number for number, key in enumerate(operators)}
        new.sort(key=lambda one: place[one.operator])
        if old + new != self.records:
            self.records = old + new
            write_text(self.path, "".join(map(_line, self.records)))

    def write_target(self, target: Target, processor: str, machine: str) -> Path:
        """The target with the fastest tile of every operator, beside the records."""
        path = self.path.with_suffix(".toml")
        write_text(path, _target_file(target, self.of(processor, machine)))
        return path


def _line(one: Measurement) -> str:
    return json.dumps(dict(one.data)) + "\n"


def read_records(path: Path, tuner: Tuner) -> list[Measurement]:
    """Records of a file; none when there is no file. A last line cut short is left out.

    Raises:
        InputRefused: it holds something else.
    """
    if not path.exists():
        return []
    found = []
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if number == len(lines) and not line.endswith("\n"):
                write_text(path, "".join(lines[:-1]))  # the process was killed while it wrote
                break
            found.append(tuner.parse(json.loads(line)))
    except (OSError, ValueError) as error:
        raise InputRefused("not a file of measured tiles", where=str(path)) from error
    return found


def _target_file(target: Target, known: Sequence[Measurement]) -> str:
    """The target as TOML, with the fastest tile of every operator among its options."""
    plain = target.model_dump(
        mode="json", exclude={"options", "gates", "defaults"}, exclude_none=True
    )
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    lines += ["", "[options]"]
    kept = {key: value for key, value in target.options.items() if key != "tiles"}
    lines += [f"{key} = {json.dumps(value)}" for key, value in kept.items()]
    for one in fastest(known):
        lines += ["", "[[options.tiles]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in one.data.items()]
    return "\n".join(lines) + "\n"
