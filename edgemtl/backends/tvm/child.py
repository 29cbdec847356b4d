"""TVM in a process of its own: it ends its process on some failures, and hangs on others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemtl import processes
from edgemtl.errors import StageFailed
from edgemtl.processes import how_it_ended

#: how much of a dead process's standard error a user is shown
TAIL_CHARACTERS = 1500
#: a compile that takes longer is ended
COMPILE_SECONDS = 540.0


def environment(threads: int = 0) -> dict[str, str]:
    """Surroundings of a child: it finds this package, and TVM's pool has ``threads`` workers."""
    made = processes.environment()
    if threads:
        made["TVM_NUM_THREADS"] = str(threads)
    return made


def tail(said: bytes) -> str:
    """The end of what a process said, for an error message."""
    text = said.decode("utf-8", "replace").strip()[-TAIL_CHARACTERS:]
    return f"; it said: {text}" if text else ""


def ask(
    module: str,
    request: Mapping[str, Any],
    time_limit_seconds: float = COMPILE_SECONDS,
    doing: str = "compile",
) -> dict[str, Any]:
    """Run ``python -m module REQUEST.json`` and return its answer.

    Args:
        module: of this package; its program writes JSON to ``request["answer"]``.
        request: plain data.
        time_limit_seconds: the process is ended after that.
        doing: what it does, for messages.

    Returns:
        the answer, without ``error``.

    Raises:
        StageFailed: the process refused, died, or ran out of time; the message has its last words.
    """
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({**request, "answer": str(answer)}), "utf-8")
        try:
            done = subprocess.run(
                processes.python_module(module, str(asked)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=time_limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StageFailed(
                f"TVM took more than {time_limit_seconds:.0f} s and was ended"
                + tail(error.stderr or b"")
            ) from error
        try:
            data: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise StageFailed(
                f"TVM died with {how_it_ended(done.returncode)}" + tail(done.stderr)
            ) from error
    if "error" in data:
        raise StageFailed(f"TVM cannot {doing}: {data['error']}")
    return data


def serve(work: Callable[[Mapping[str, Any]], dict[str, Any]], path: str) -> None:
    """The child's side: do what REQUEST.json asks, leave the answer, end without destructors."""
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would load it for nothing
    request = json.loads(Path(path).read_text("utf-8"))
    try:
        answer = work(request)
    except Exception as error:  # TVM raises many kinds; its last line says what, the others where
        lines = (str(error).strip() or type(error).__name__).splitlines()
        print(error, file=sys.stderr)
        answer = {"error": lines[-1]}
    Path(request["answer"]).write_text(json.dumps(answer), "utf-8")
    sys.stderr.flush()
    os._exit(0)
