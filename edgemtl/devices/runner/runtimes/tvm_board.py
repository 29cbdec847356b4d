"""TVM by the C++ runner that lies beside the network: the board needs no TVM for Python.

The runner is a process that answers inputs on its standard input (what it speaks stands at the head
of ``backends/tvm/runner.cc``); times are its own, so that no copy through a pipe is in them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from . import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUNNER, DESCRIPTION = "runner", "model.json"
#: for loading, and for one run
RUN_SECONDS = 120.0
READY, OUTPUT = b"R", b"O"


class TvmSession(Session):
    """The runner, waiting for inputs."""

    runtime = "tvm"

    def __init__(self, model: str, threads: int, outputs: Sequence[str]) -> None:
        super().__init__()
        folder = Path(model).parent
        described = _description(folder / DESCRIPTION)
        self.version = str(described.get("tvm", ""))
        self.facts = {"mcpu": described.get("mcpu", ""), "program": RUNNER}
        self._shapes = {str(o["name"]): tuple(o["shape"]) for o in described["outputs"]}
        self._asked = list(outputs)
        missing = [name for name in self._asked if name not in self._shapes]
        if missing:
            raise RunnerError(STAGE_FAILED, f"the network has no output '{missing[0]}'")
        program = folder / RUNNER
        if not program.is_file():
            raise RunnerError(
                UNAVAILABLE,
                "this bundle holds no runner for its processor: install EdgeMTL with its extra "
                "'tvm' and use 'edgemtl verify' and 'edgemtl bench'",
            )
        program.chmod(0o755)
        shape = "x".join(str(int(n)) for n in described["input_shape"])
        self._command = [str(program), str(Path(model).resolve()), shape]
        self._environment = dict(os.environ)
        if threads:
            self._environment["TVM_NUM_THREADS"] = str(threads)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        try:
            self._process = subprocess.Popen(
                [*self._command, "serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
            )
        except OSError as error:
            self._errors.close()
            raise RunnerError(
                UNAVAILABLE,
                f"the bundle's runner does not start here ({error.strerror}): it is for "
                f"{self.facts['mcpu']}",
            ) from error
        if self._answer(b"", 1) != READY:
            raise RunnerError(STAGE_FAILED, "the bundle's runner does not answer as it should")

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`."""
        import numpy as np

        sizes = {name: math.prod(shape) for name, shape in self._shapes.items()}
        given = np.ascontiguousarray(images, np.float32).tobytes()
        data = self._answer(given, 1 + 4 * sum(sizes.values()))
        if data[:1] != OUTPUT:
            raise RunnerError(STAGE_FAILED, "the bundle's runner does not answer as it should")
        found, at = {}, 1
        for name, size in sizes.items():
            values = np.frombuffer(data, np.float32, size, at)
            found[name] = values.reshape(self._shapes[name])
            at += 4 * size
        return {name: found[name] for name in self._asked}

    def samples(
        self,
        images: NDArray[np.float32],
        warm_up_s: float,
        min_runs: int,
        min_s: float,
        observe: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """See :meth:`Session.samples`; the runner's own clock, around the network alone."""
        began = time.perf_counter()
        runs = 0
        while runs == 0 or time.perf_counter() - began < warm_up_s:
            self.run(images)
            runs += 1
        one = (time.perf_counter() - began) / runs
        count = max(min_runs, math.ceil(min_s / max(one, 1e-6)))
        try:
            done = subprocess.run(
                [*self._command, "bench", str(count)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment,
                timeout=RUN_SECONDS + 10.0 * one * count,
                check=False,
            )
            found = json.loads(done.stdout)["samples_ms"]
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            raise RunnerError(
                STAGE_FAILED, f"the bundle's runner cannot measure: {error}"
            ) from error
        observe()
        return [float(value) for value in found]

    def _answer(self, out: bytes, wanted: int) -> bytes:
        """Send bytes and wait for that many."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(RUN_SECONDS, process.kill)
        late.start()
        try:
            process.stdin.write(out)
            process.stdin.flush()
            data = process.stdout.read(wanted)
        except OSError:
            data = b""
        finally:
            late.cancel()
        if len(data) != wanted:
            raise RunnerError(STAGE_FAILED, f"the bundle's runner ended{self._last_words()}")
        return data

    def _last_words(self) -> str:
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f" with code {code}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        """See :meth:`Session.close`."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not sent is of no use any more
                    continue


def _description(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
        if not all(key in data for key in ("input_shape", "outputs")):
            raise ValueError("keys are missing")
    except (OSError, ValueError) as error:
        raise RunnerError(STAGE_FAILED, f"{path.name} is not readable: {error}") from error
    found: dict[str, Any] = data
    return found


def load(
    model: str, device: str, threads: int, precision_hint: str, outputs: Sequence[str]
) -> Session:
    """Start the runner that lies beside ``model``; it always computes as written."""
    return TvmSession(model, threads, outputs)
