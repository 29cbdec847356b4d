"""Measures tiles on this machine, in a process of its own (tuning.py)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgemtl.backends.tuner import Measurement, Tuner
from edgemtl.backends.tvm.child import environment, tail
from edgemtl.backends.tvm.schedule.tuned import key_of
from edgemtl.backends.tvm.settings import TunedTile, TvmOptions, options_of, resolved
from edgemtl.errors import StageFailed
from edgemtl.processes import how_it_ended, python_module
from edgemtl.targets import Target

#: one operator's tiles that take longer to compile and time are a hang
OPERATOR_SECONDS = 300.0


def options_here(target: Target) -> TvmOptions:
    """The target's options for this machine's processor, without measured tiles."""
    return resolved(options_of(target)).model_copy(update={"tiles": ()})


class TvmTuner(Tuner):
    """Tiles of accumulators, compiled and timed in a process of its own."""

    def processor(self, target: Target) -> str:
        """LLVM's name."""
        return options_here(target).mcpu

    def measure(
        self,
        onnx: Path,
        target: Target,
        machine: str,
        known: Collection[str],
        wanted: Collection[str] | None,
        tiles: int,
        seconds: float,
    ) -> tuple[list[str], Iterator[list[Measurement]]]:
        """See :class:`Tuner`."""
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            request = {
                "onnx": str(onnx.absolute()),
                "options": options_here(target).model_dump(),
                "known": sorted(known),
                "wanted": None if wanted is None else sorted(wanted),
                "tiles": tiles,
                "seconds": seconds,
            }
            asked = Path(folder) / "request.json"
            asked.write_text(json.dumps(request), "utf-8")
            lines = _lines(python_module("edgemtl.backends.tvm.tuning", str(asked)))
            first = next(lines)  # the request has been read by then
        return list(first["operators"]), (
            [self.parse({**one, "machine": machine}) for one in line["records"]] for line in lines
        )

    def told(self, found: Sequence[Measurement]) -> str:
        """The fastest tile of one operator."""
        best = min(found, key=lambda one: one.seconds)
        sizes, tile = (best.data[key] for key in ("sizes", "tile"))
        shown = "x".join(map(str, sizes))
        return f"{best.data['kind']} {shown}: {tile[0]}x{tile[1]}, {best.seconds * 1e6:.0f} us"

    def parse(self, data: Any) -> Measurement:
        """A tile that was measured."""
        one = TunedTile.model_validate(data)
        key = key_of(one.kind, one.sizes)
        plain = one.model_dump(mode="json")
        return Measurement(key, one.processor, one.machine, one.seconds, plain)


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
