"""Fixtures of the bundle's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import make_contents

from edgemtl.bundle import BundleContents, write_bundle


@pytest.fixture
def contents(tmp_path: Path) -> BundleContents:
    return make_contents(tmp_path / "inputs")


@pytest.fixture
def bundle_path(tmp_path: Path, contents: BundleContents) -> Path:
    """A good bundle, under a name that is not ASCII."""
    path = tmp_path / "bündel 网络.edgemtl"
    write_bundle(path, contents)
    return path
