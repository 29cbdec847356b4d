"""How this package starts other processes: one place, so that the rules hold.

A module of ours or of the installation runs, never a file of the same name in the folder that the
user happens to be in: ``python -m`` alone would search there first. What a stranger's program may
take and say has limits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

#: of standard error; the rest is not looked at
MOST_ERRORS = 64 << 10


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this installation as a program.

    Args:
        module: dotted name, ``edgemtl.measure.worker`` or ``pip``.
        arguments: what follows on the command line.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Our own environment, in which a child finds this very package."""
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Ended:
    """A process that is over.

    Attributes:
        code: its exit code; negative for a signal.
        answer: what it wrote to standard output.
        errors: the start of what it wrote to standard error.
        late: whether it was ended because its time was over.
        too_much: whether it was ended because it answered more than it may.
    """

    code: int
    answer: bytes
    errors: bytes
    late: bool
    too_much: bool


def run_bounded(
    command: Sequence[str],
    seconds: float,
    most_bytes: int,
    stdin: Any = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    memory_bytes: int | None = None,
) -> Ended:
    """Run a command whose time, answer and memory have limits.

    Args:
        command: program and arguments.
        seconds: it is killed after that.
        most_bytes: it is killed when it writes more to standard output.
        stdin: an open file, or nothing.
        env: its environment; ours by default.
        memory_bytes: that it may write to, heap and private mappings together; what it asks for
            beyond that is not given to it. Held on Linux only.

    Raises:
        FileNotFoundError: there is no such program.
    """
    _log.debug(f"running {shlex.join(map(str, command))}")
    late = threading.Event()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=env
        )
        if memory_bytes is not None:
            _limit_memory(process.pid, memory_bytes)

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        assert process.stdout is not None
        with process.stdout:
            try:
                answer = process.stdout.read(most_bytes + 1)
                too_much = len(answer) > most_bytes
                if too_much:
                    process.kill()
                code = process.wait()
            finally:
                timer.cancel()
                process.kill()
                process.wait()
        errors.seek(0)
        return Ended(code, answer, errors.read(MOST_ERRORS), late.is_set(), too_much)


def _limit_memory(pid: int, most_bytes: int) -> None:
    if sys.platform != "linux":
        return
    import resource

    # Not RLIMIT_AS: threads and allocators reserve far more addresses than they ever write to.
    # Set from outside, since what runs between fork and exec must not be Python.
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (most_bytes, most_bytes))


def how_it_ended(code: int) -> str:
    """ "signal SIGSEGV" or "exit code 3", for a code as ``subprocess`` tells it."""
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


__all__ = ["Ended", "environment", "how_it_ended", "python_module", "run_bounded"]
