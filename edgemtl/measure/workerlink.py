"""The parent's end of a bench worker: start it, ask it, notice when it dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from edgemtl.errors import StageFailed, from_data
from edgemtl.processes import environment, python_module
from edgemtl.sinks import cut

#: how much of the worker's standard error a user is shown
TAIL_CHARACTERS = 1500
#: how long a worker may take to leave after "quit" before it is killed
QUIT_SECONDS = 5.0


class WorkerLink:
    """A running worker process; use as a context manager, which ends the process.

    Args:
        where: what the worker holds, for error messages.
        time_limit_seconds: for the answer to any one command.
    """

    def __init__(self, where: str, time_limit_seconds: float) -> None:
        self._where = where
        self._limit = time_limit_seconds
        # A file, not a pipe: a runtime that prints much must not block on us.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the link
        self._process = subprocess.Popen(
            python_module("edgemtl.measure.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")  # the end

    def __enter__(self) -> WorkerLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self._process.poll() is None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # else it is killed
                self._send({"do": "quit"})
                self._process.wait(QUIT_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(QUIT_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # a dead worker's pipe takes no buffered rest
                stream.close()
        self._errors.close()

    def _send(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            EdgemtlError: the worker's own refusal, as the class it raised there.
            StageFailed: the worker died, did not answer in time, or printed something else.
        """
        try:
            self._send({"do": do, **fields})
        except OSError:
            raise self._death(do) from None
        try:
            line = self._answers.get(timeout=self._limit)
        except queue.Empty:
            self._process.kill()
            raise StageFailed(
                f"the bench worker did not finish '{do}' within {self._limit:g} s" + self._said(),
                where=self._where,
                hint="raise the time limit or check the artefact",
            ) from None
        if not line:
            raise self._death(do)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise StageFailed(
                f"the bench worker printed no answer to '{do}' but: {cut(line.strip(), 200)}",
                where=self._where,
                hint="a package that it imports prints on standard output, or is broken",
            ) from None
        if "error" in answer:
            raise from_data(answer["error"])
        return answer

    def _death(self, do: str) -> StageFailed:
        code = self._process.wait()
        try:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except ValueError:
            how = f"exit code {code}"
        return StageFailed(
            f"the bench worker died with {how} during '{do}'" + self._said(), where=self._where
        )

    def _said(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - TAIL_CHARACTERS))
        tail = self._errors.read().decode("utf-8", "replace").strip()
        return f"; it said: {tail}" if tail else ""
