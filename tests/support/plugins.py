"""Other people's packages, installed for some tests: the examples of ``packages/``, or invented.

What a package manager leaves behind is metadata with entry points beside the modules, in a folder
where Python looks; that is all that is written here. ``tests/integration/test_plugin_packages.py``
has them installed by pip itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgemtl.compress.context import METHODS
from edgemtl.data.open import _FORMATS, DatasetFormat
from edgemtl.models.registry import _FAMILIES
from edgemtl.tasks.registry import _KINDS

PACKAGES = Path(__file__).parent / "packages"
#: every example, by the name of its package
NAMES = tuple(sorted(path.parent.name for path in PACKAGES.glob("*/pyproject.toml")))


def install(
    folder: Path, patch: pytest.MonkeyPatch, groups: Mapping[str, Mapping[str, str]]
) -> Path:
    """Make an invented package 'theirs' known to this process and to those that it starts.

    Args:
        folder: a new one below it holds the package's metadata.
        patch: takes it away again.
        groups: group -> name -> ``module:object``.
    """
    site = folder / "site"
    _write_metadata(site, "theirs", "1", groups)
    patch.syspath_prepend(str(site))
    tests = Path(__file__).parents[1]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(tests), *inherited]))
    return site


@contextmanager
def installed(site: Path, *names: str) -> Iterator[Path]:
    """Have example packages installed, here and in processes that are started meanwhile.

    Args:
        site: folder that they are installed into.
        names: of the packages; all of them by default.
    """
    modules = [module for name in names or NAMES for module in _put(site, name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        try:
            yield site
        finally:
            for table in (_FAMILIES, _FORMATS, _KINDS, METHODS):
                for key in [key for key, found in table.items() if _module(found) in modules]:
                    del table[key]
            for module in modules:
                sys.modules.pop(module, None)
    importlib.invalidate_caches()


def _module(found: object) -> str:
    return found.module if isinstance(found, DatasetFormat) else str(found.__module__)


def _put(site: Path, name: str) -> list[str]:
    """Write a package's metadata and link its modules; their names."""
    facts = tomllib.loads((PACKAGES / name / "pyproject.toml").read_text("utf-8"))
    project = facts["project"]
    _write_metadata(site, name, project["version"], project["entry-points"])
    modules = facts["tool"]["setuptools"]["py-modules"]
    for module in modules:
        (site / f"{module}.py").symlink_to(PACKAGES / name / f"{module}.py")
    return list(modules)


def _write_metadata(
    site: Path, name: str, version: str, groups: Mapping[str, Mapping[str, str]]
) -> None:
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(text, "utf-8")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
