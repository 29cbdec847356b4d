"""A case in a process of its own, forked after the runtime was imported: it costs milliseconds."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import Any


def forked(
    work: Callable[[], dict[str, Any]], seconds: float, memory_mb: int
) -> dict[str, Any] | None:
    """What ``work`` returns in a child of this process.

    Args:
        work: returns plain data.
        seconds: the child is killed after that.
        memory_mb: address space that it may take beyond what this process has.

    Returns:
        None when the child died or was killed.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(work, write, memory_mb)
    os.close(write)
    answer, until = bytearray(), time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([read], [], [], left)
            piece = os.read(read, 1 << 16) if ready else b""
            if not piece:
                break
            answer += piece
    finally:
        os.close(read)
        # The child leads its own group: a compiler that it started ends with it.
        for group in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                group(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        data: dict[str, Any] = json.loads(answer)
    except ValueError:
        return None
    return data


def _child(work: Callable[[], dict[str, Any]], write: int, memory_mb: int) -> None:
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - no Path yet
            pages = int(stream.read().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answer = json.dumps(work()).encode()
        while answer:
            answer = answer[os.write(write, answer) :]
    finally:
        os._exit(0)
