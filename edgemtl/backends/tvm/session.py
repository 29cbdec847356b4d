"""Running an artefact: in a process of its own, or in this one where that may die."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.session import Session
from edgemtl.backends.tvm.child import tail
from edgemtl.errors import StageFailed
from edgemtl.processes import how_it_ended

READY, OUTPUT = b"R", b"O"
#: for one run, loading included; emulated boards are slow
RUN_SECONDS = 120.0
_PIECE = 1 << 20


class PipeSession(Session):
    """A library held by another process.

    Args:
        command: what starts that process (see library.py for what it speaks).
        environment: of that process.
        input_shape: (B, 3, H, W).
        shapes: output name -> shape.
        kind: "measured", or "proxy" where an emulator runs it.

    Raises:
        StageFailed: the process died before it was ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        input_shape: tuple[int, ...],
        shapes: Mapping[str, tuple[int, ...]],
        kind: str,
    ) -> None:
        super().__init__(input_shape, tuple(shapes))
        self.kind = kind  # type: ignore[misc] # one class for both
        self._shapes = shapes
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the session
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(environment),
                bufsize=0,
            )
        except OSError as error:
            self._errors.close()
            raise StageFailed(
                f"TVM cannot load the model: {Path(command[0]).name}: {error.strerror}"
            ) from error
        try:
            if self._exchange(b"", 1) != READY:
                raise StageFailed("TVM cannot load the model: its process sends unreadable answers")
        except StageFailed as error:
            self.close()
            raise StageFailed(f"TVM cannot load the model: {error.message}") from error

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        data = self._exchange(np.ascontiguousarray(images).tobytes(), 1 + 4 * sum(sizes))
        if data[:1] != OUTPUT:
            raise StageFailed("the process that runs the model sends unreadable answers")
        values = np.split(np.frombuffer(data, np.float32, offset=1), np.cumsum(sizes)[:-1])
        return {
            name: value.reshape(shape)
            for (name, shape), value in zip(self._shapes.items(), values, strict=True)
        }

    def _exchange(self, out: bytes, wanted: int) -> bytes:
        """Send bytes and wait for that many, within the time limit."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        rest, parts, missing = memoryview(out), [], wanted
        deadline = time.monotonic() + RUN_SECONDS
        while missing:
            left = deadline - time.monotonic()
            writing = [process.stdin] if rest else []
            readable, writable, _ = select.select([process.stdout], writing, [], max(left, 0))
            if not readable and not writable:
                process.kill()
                raise self._failure(f"no answer within {RUN_SECONDS:.0f} s")
            if writable:
                try:
                    # A pipe that select calls writable takes this many bytes without blocking.
                    rest = rest[os.write(process.stdin.fileno(), rest[: select.PIPE_BUF]) :]
                except OSError:
                    raise self._failure("the process died") from None
            if readable:
                piece = os.read(process.stdout.fileno(), min(missing, _PIECE))
                if not piece:
                    raise self._failure("the process died")
                parts.append(piece)
                missing -= len(piece)
        return b"".join(parts)

    def _failure(self, what: str) -> StageFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            what += f" with {how_it_ended(self._process.wait(5.0))}"
        self._errors.seek(0)
        return StageFailed(what + tail(self._errors.read()))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class DirectSession(Session):
    """A library in this process, for processes that may die (the bench worker).

    Raises:
        StageFailed: it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        input_shape: tuple[int, ...],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        from edgemtl.backends.tvm.library import Library

        super().__init__(input_shape, tuple(shapes))
        try:
            self._library: Library | None = Library(path, threads)
        except Exception as error:  # TVM raises many kinds
            lines = (str(error).strip() or type(error).__name__).splitlines()
            raise StageFailed(f"TVM cannot load the model: {lines[-1]}") from error

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        if self._library is None:
            raise StageFailed("the session is closed")
        try:
            values = self._library.run(images)
        except Exception as error:  # TVM raises many kinds
            raise StageFailed(f"TVM failed: {error}") from error
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        self._library = None
