"""Where the real data and the design pages lie, and the skip when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]


def data_folder(*parts: str) -> Path:
    """A path inside the shared data (``EDGEMTL_DATA`` or ``<repo>/../shared/data``), or a skip."""
    default = _REPOSITORY.parent / "shared" / "data"
    path = Path(os.environ.get("EDGEMTL_DATA", default)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared data: {'/'.join(parts) or 'the folder'} is not there")
    return path


def design_page(*parts: str) -> Path:
    """A path inside the shared design pages (``<repo>/../shared/design``), or a skip."""
    path = (_REPOSITORY.parent / "shared" / "design").joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared design pages: {'/'.join(parts)} is not there")
    return path


def published_shapes(page: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a design page of published keys lists, or a skip."""
    text = design_page("papers", page).read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    return {
        name: tuple(int(size) for size in shape.strip("()").split(",") if size.strip())
        for name, shape, _ in rows
    }
