"""How this package starts Python in a process of its own: one place, so that one rule holds.

A module of ours or of the installation runs, never a file of the same name in the folder that the
user happens to be in: ``python -m`` alone would search there first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


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


__all__ = ["environment", "python_module"]
