"""Errors of a network's own code, told as such: what it said, in which module, at which line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from edgemtl.errors import EdgemtlError, InputRefused

_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parents[1]
#: our own networks and layers are a network's code like anybody's
_NETWORKS = Path(__file__).parent
_NOT_NETWORKS = ("base.py", "user_code.py")


@dataclass(frozen=True)
class Place:
    """Where in a network's code something happened.

    Attributes:
        module: path of the innermost module whose code it is; empty for the network's own forward.
        file: name of the source file, without its folder; empty where there is none.
        line: number of the line; 0 where there is none.
        code: that line.
    """

    module: str
    file: str
    line: int
    code: str

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.file else ""
        module = f"module '{self.module}'" if self.module else ""
        return ", ".join(part for part in (module, at) if part) or "the network's forward"


@lru_cache(maxsize=4096)
def _is_users(file: str) -> bool:
    path = Path(file)
    if file.startswith("<") or path.is_relative_to(_TORCH):
        return False
    if path.parent.is_relative_to(_NETWORKS):
        return path.name not in _NOT_NETWORKS
    return not path.is_relative_to(_OURS)


def module_paths(network: nn.Module) -> dict[int, str]:
    """Path of each of its modules by ``id``, for who asks for places often."""
    return {id(module): path for path, module in network.named_modules()}


def find_place(paths: Mapping[int, str], frames: list[tuple[FrameType, int]]) -> Place:
    """The innermost place in the network's own code among stack frames, the outermost first.

    Args:
        paths: the modules that are looked for, see :func:`module_paths`.
        frames: frames and the numbers of the lines that run.
    """
    module = ""
    file, line = "", 0
    inside = False
    for frame, number in frames:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            module, inside = paths[id(owner)], True
            file, line = (file, line) if not _is_users(frame.f_code.co_filename) else ("", 0)
        if inside and _is_users(frame.f_code.co_filename):
            file, line = frame.f_code.co_filename, number
    code = ""
    if file:
        import linecache

        code = linecache.getline(file, line).strip()
    return Place(module, Path(file).name, line, code)


def here(paths: Mapping[int, str]) -> Place:
    """The place in the network's code that is running now; see :func:`find_place`."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return find_place(paths, frames[::-1])


def raised_at(network: nn.Module, error: BaseException) -> Place:
    """The innermost place in the network's code that this error came through."""
    return find_place(module_paths(network), list(traceback.walk_tb(error.__traceback__)))


def said_by(error: BaseException) -> str:
    """Kind and first line of an error's own message."""
    said = (str(error).strip() or "(it says nothing)").splitlines()[0]
    return f"{type(error).__name__}: {said}"


@contextmanager
def told_as_its_own(network: nn.Module) -> Iterator[None]:
    """While active, what the network's forward raises is told as an error of its code.

    Raises:
        InputRefused: with the error's own message, the module and the line.
    """
    try:
        yield
    except EdgemtlError:
        raise
    except Exception as error:  # the forward may be anybody's code
        place = raised_at(network, error)
        raise InputRefused(
            f"the network's forward raises {said_by(error)}",
            where=str(place),
            hint=f"at: {place.code}"
            if place.code
            else "it was given one picture of its input_spec",
        ) from error
