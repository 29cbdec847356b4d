"""The command line in a forked process, and what may be said of how it left."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

#: a child that takes longer hangs
SECONDS = 60
#: address space of a child: a bomb must not take the machine with it
MOST_BYTES = 12 << 30
#: errors are at most this long, so that a terminal survives them
MOST_LINE = 8000


@dataclass(frozen=True)
class Left:
    """How a child left.

    Attributes:
        code: exit code; negative for a signal.
        said: everything it printed.
        seconds: how long it took.
    """

    code: int
    said: str
    seconds: float


def preload() -> None:
    """Import what the verbs use; nothing is computed, so that no pool of threads is forked."""
    import cv2
    import onnx
    import onnxruntime  # noqa: F401
    import torch

    import edgemtl.backends.onnxruntime
    import edgemtl.bundle.verify
    import edgemtl.cli.main
    import edgemtl.measure.accuracy
    import edgemtl.models.checkpoint
    import edgemtl.pipeline.compile
    import edgemtl.pipeline.inspection
    import edgemtl.report.page  # noqa: F401

    del onnx
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def run(arguments: Sequence[object], folder: Path) -> Left:
    """``edgemtl ARGUMENTS`` in a child whose working folder is ``folder``."""
    log = folder / "said.log"
    sys.stdout.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _main([str(argument) for argument in arguments], folder, log)
    status = _wait(child, began)
    said = log.read_text("utf-8", "replace") if log.exists() else ""
    return Left(os.waitstatus_to_exitcode(status), said, time.monotonic() - began)


def _wait(child: int, began: float) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() - began > SECONDS:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.005)


def _main(arguments: list[str], folder: Path, log: Path) -> None:
    code: object = 70
    try:
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["edgemtl", *arguments]
        from edgemtl.cli.main import main

        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


def fault(left: Left, allowed: Collection[int]) -> str:
    """What is wrong with how a child left; empty when nothing is."""
    if left.code == -signal.SIGKILL and left.seconds > SECONDS:
        return f"hangs for more than {SECONDS} s"
    if left.code < 0:
        return f"killed by {signal.Signals(-left.code).name}"
    if "Traceback (most recent call last)" in left.said:
        return "traceback"
    if left.code not in allowed:
        return f"exit code {left.code}"
    errors = re.findall(r"^error: .*$", left.said, re.MULTILINE)
    if left.code in (2, 3, 4) and len(errors) != 1:
        return f"{len(errors)} error lines"
    if any(len(line) > MOST_LINE for line in errors):
        return "an endless error line"
    if "\x1b" in left.said or "\x9b" in left.said:
        return "a terminal escape"
    if re.search(r"^\s*::|##\[|##vso\[", left.said, re.MULTILINE):
        return "an order to a CI service"
    return ""
