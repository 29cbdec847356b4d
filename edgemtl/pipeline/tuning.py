"""``tune``: which tile of accumulators is fastest for each operator, measured on this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm.child import environment, how_it_ended, tail
from edgemtl.backends.tvm.schedule.tuned import Tuned, key_of
from edgemtl.backends.tvm.settings import TunedTile, TvmOptions, options_of, resolved
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.files import write_text
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.subject import kind_of
from edgemtl.targets import Target

#: one operator's tiles that take longer to compile and time are a hang
OPERATOR_SECONDS = 300.0


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
    tell: Callable[[int, int, str], None],
    factory: str | None = None,
    tiles: int = 6,
    seconds: float = 1.0,
) -> Tuning:
    """Measure tiles; what ``output`` holds already is not measured again.

    Args:
        model: checkpoint or ONNX file.
        target_name: of a target of TVM that this machine is.
        output: JSON lines; the target file is written beside it.
        tell: called with operators done, operators in all, and what was found.
        factory: of the user's own network.
        tiles: measured per operator, the likeliest first.
        seconds: of timing per operator.

    Raises:
        UsageError: not such a target.
        InputRefused: ``output`` is not a file of records.
        StageFailed: TVM failed, died or hung; what was measured is kept.
    """
    target = targets.load(target_name)
    if target.backend != "tvm" or not target.measured_here:
        raise UsageError("only a target of TVM that this machine is can be tuned here",
                         where=target.name, hint="--target tvm-x86")  # fmt: skip
    backend = registry.get(target.backend)
    backend.require()
    options = resolved(options_of(target)).model_copy(update={"tiles": ()})
    known = read_records(output)
    have = {key_of(one.kind, one.sizes) for one in known if one.processor == options.mcpu}
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        onnx = model
        if kind_of(model) != "onnx":
            onnx = Path(folder) / "model.onnx"
            export_file(model, onnx, target_name, factory=factory)
        request = {
            "onnx": str(onnx.absolute()),
            "options": options.model_dump(),
            "known": sorted(have),
            "tiles": tiles,
            "seconds": seconds,
        }
        asked = Path(folder) / "request.json"
        asked.write_text(json.dumps(request), "utf-8")
        lines = _lines([sys.executable, "-P", "-m", "edgemtl.backends.tvm.tuning", str(asked)])
        first = next(lines)
        total, done = int(first["operators"]), int(first["known"])
        begun = done
        tell(done, total, "")
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a", encoding="utf-8") as stream:
            for line in lines:
                found = [TunedTile.model_validate(one) for one in line["records"]]
                stream.writelines(json.dumps(one.model_dump(mode="json")) + "\n" for one in found)
                stream.flush()
                known += found
                done += 1
                tell(done, total, _told(found))
    written = None
    if done == total:
        written = output.with_suffix(".toml")
        write_text(written, _target_file(target, options, known))
    return Tuning(total, done - begun, output, written)


def read_records(path: Path) -> list[TunedTile]:
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
            found.append(TunedTile.model_validate_json(line))
    except (OSError, ValueError) as error:
        raise InputRefused("not a file of measured tiles", where=str(path)) from error
    return found


def _told(found: list[TunedTile]) -> str:
    best = min(found, key=lambda one: one.seconds)
    sizes = "x".join(map(str, best.sizes))
    return f"{best.kind} {sizes}: {best.tile[0]}x{best.tile[1]}, {best.seconds * 1e6:.0f} us"


def _lines(command: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a process, each within its time limit.

    Raises:
        StageFailed: the process died or hung.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(1),
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        late = False
        try:
            while True:
                timer = threading.Timer(OPERATOR_SECONDS, process.kill)
                timer.start()
                line = process.stdout.readline()
                late = not timer.is_alive()
                timer.cancel()
                if not line:
                    break
                yield json.loads(line)
            code = process.wait()
            if code:
                errors.seek(0)
                how = "took too long and was ended" if late else f"died with {how_it_ended(code)}"
                raise StageFailed(f"TVM {how} while tuning" + tail(errors.read()))
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                process.stdout.close()


def _target_file(target: Target, options: TvmOptions, known: list[TunedTile]) -> str:
    """The target as TOML, with the fastest tile of every operator among its options."""
    best = Tuned([one.model_dump() for one in known], options.mcpu).fastest()
    plain = target.model_dump(mode="json", exclude={"options", "gates", "defaults"})
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    lines += ["", "[options]"]
    kept = {key: value for key, value in target.options.items() if key != "tiles"}
    lines += [f"{key} = {json.dumps(value)}" for key, value in kept.items()]
    for one in best:
        lines += ["", "[[options.tiles]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"
