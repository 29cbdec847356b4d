"""Run folders of every kind, written once for all tests of the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from support.run_folder import write_variant

from edgemtl.record.load import RunData, load_run

Variant = Callable[[str], Path]


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """Name of a variant -> its run folder, to be left as it is."""
    root = tmp_path_factory.mktemp("runs")

    @lru_cache
    def folder(name: str) -> Path:
        return write_variant(root / name, name)

    return folder


@pytest.fixture
def complete(variant: Variant) -> RunData:
    """A complete run."""
    return load_run(variant("complete"))
