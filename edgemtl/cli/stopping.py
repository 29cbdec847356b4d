"""SIGTERM and SIGHUP end a verb as Ctrl-C does: what it started and its temporary files go too."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: what a machine, a service manager or a closed terminal sends
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: how long what was started may take to end by itself
_SECONDS = 2.0


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """Leave by SystemExit of 128 + number on these signals, with nothing left running.

    The exception unwinds the stack, so that whoever made a temporary file or started a process
    removes or ends it; what such a process started itself is ended here. A signal that is ignored
    stays so (``nohup``), and one that somebody else handles is theirs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    left: list[Any] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # 'timeout' and service managers signal the group and the process: once is enough.
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        # Before any of them is ended: afterwards nothing says any more whose children they were.
        left.extend(_descendants())
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _end(left)
        signal.signal(signal.SIGINT, interrupted)
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _descendants() -> list[Any]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return list(psutil.Process().children(recursive=True))
    return []


def _end(processes: list[Any]) -> None:
    if not processes:
        return
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=0)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_SECONDS)
