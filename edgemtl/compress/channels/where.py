"""Where in the user's own code something happens."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType, TracebackType

import torch

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


def line_of_user() -> str:
    """``file.py:line`` of the innermost running line that is neither torch's nor the tracer's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _foreign(frame):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of_error(error: BaseException) -> str:
    """``file.py:line`` of the innermost line of the user's that an exception came through."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if _foreign(trace.tb_frame):
            found = _named(trace)
        trace = trace.tb_next
    return found


def _named(trace: TracebackType) -> str:
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _foreign(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith((_TORCH, _HERE, "<"))
