"""Install what another package would by its entry points, for one test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path, patch: pytest.MonkeyPatch, groups: Mapping[str, Mapping[str, str]]
) -> Path:
    """Make a package 'theirs' known to this process and to those that it starts.

    Args:
        folder: a new one below it holds the package's metadata.
        patch: takes it away again.
        groups: group -> name -> ``module:object``.
    """
    info = folder / "site" / "theirs-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n", "utf-8")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    patch.syspath_prepend(str(info.parent))
    tests = Path(__file__).parents[1]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    patch.setenv("PYTHONPATH", os.pathsep.join([str(info.parent), str(tests), *inherited]))
    return info.parent
