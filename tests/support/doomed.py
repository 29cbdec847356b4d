"""Processes of ours that are killed in the middle: runs of compile, members of a farm.

They are forked from one process that has imported everything already: starting Python and torch
anew for each would take most of the time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from edgemtl.pipeline.cache import code_fingerprint
from edgemtl.pipeline.code_key import code_key

# Read once and handed to all that are forked, so that all of them are the same code, and none
# parses it again.
code_fingerprint()
code_key("edgemtl.pipeline.compile", "edgemtl.backends.onnxruntime", "edgemtl.tasks.segmentation")

_PRELOAD = [
    "cyclonedx.output.json",
    "distributed",
    "edgemtl.backends.onnxruntime",
    "edgemtl.cli.main",
    "edgemtl.pipeline.compile",
    "edgemtl.pipeline.farm.members",
    "edgemtl.report.console",
    "edgemtl.report.page",
    "jinja2",
    "junitparser",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "psutil",
    "rich.console",
    "support.dense_family",
    "support.doomed",
    "torch.onnx",
]
#: what makes a change on the disk durable or visible to others
_STEPS = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")


def start(
    arguments: Sequence[object],
    cache: Path,
    log: Path,
    die_at: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start ``edgemtl ARGUMENTS`` in a session of its own.

    Args:
        arguments: verb and flags.
        cache: folder of stage results.
        log: gets what the process says.
        die_at: number of the change on the disk (counted from 1) before which it is killed; the
            count of all of them is the last line of the log of a process that lives.
        environment: variables that it has besides those of the process it is forked from.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    words = [str(argument) for argument in arguments]
    more = {**(environment or {}), "EDGEMTL_CACHE": str(cache)}
    process = context.Process(target=_main, args=(words, more, str(log), die_at))
    with pytest.MonkeyPatch.context() as patch:
        # The process that is forked from starts with the first one, and looks for what it imports
        # where Python itself looks.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        process.start()
    return process


def kill(process: BaseProcess) -> None:
    """``kill -9`` of the process and of all that it started."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _main(arguments: list[str], environment: dict[str, str], log: str, die_at: int | None) -> None:
    os.setsid()
    os.environ.update(environment)  # the process this one is forked from has another
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    steps = _count_steps(die_at)
    sys.argv = ["edgemtl", *arguments]
    from edgemtl.cli.main import main

    try:
        main()
    finally:
        print(f"steps {len(steps)}", file=sys.stderr, flush=True)


def _count_steps(die_at: int | None) -> list[str]:
    steps: list[str] = []

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            if len(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            # A kill loses nothing of what was written; waiting for the disk would cost much time.
            return None if name == "fsync" else step(*args, **kwargs)

        return take

    for name in _STEPS:
        setattr(os, name, counted(name, getattr(os, name)))
    return steps
