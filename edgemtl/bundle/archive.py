"""Zips whose bytes depend on their content alone, and the runner as such a zip.

Members are stored, not deflated: weights hardly shrink, and deflate gives other bytes with another
zlib, which would break "same inputs, same bytes" between machines.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from edgemtl.backends.base import Backend
from edgemtl.devices import runner
from edgemtl.devices.runner import runtimes
from edgemtl.errors import StageFailed

#: the earliest time a zip can hold
EPOCH = (1980, 1, 1, 0, 0, 0)

#: name of another package's runtime module inside the archive
_OWN = "runtime_of_the_backend"

_RUNNER_MAIN = '''\
"""Entry of runner.pyz."""
import os
import sys

if sys.version_info < (3, 8):
    sys.exit("error: the runner needs Python 3.8 or later")
from runner.cli import main

archive = os.path.dirname(os.path.abspath(__file__))
sys.exit(main(sys.argv[1:], os.path.dirname(archive)))
'''

#: makes the bundle itself a program: Python runs a zip that has this member
BUNDLE_MAIN = b'''\
"""Runs the bundle's runner: python BUNDLE verify|bench|info"""
import os
import sys
import tempfile
import zipfile

if sys.version_info < (3, 8):
    sys.exit("error: the runner needs Python 3.8 or later")
here = os.path.dirname(os.path.abspath(__file__))
with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
    if os.path.isdir(here):
        archive = os.path.join(here, "runner.pyz")
    else:
        # Python cannot import from a zip within a zip.
        with zipfile.ZipFile(here) as bundle:
            archive = bundle.extract("runner.pyz", folder)
    sys.path.insert(0, archive)
    from runner.cli import main

    code = main(sys.argv[1:], here)
sys.exit(code)
'''


def runs_itself(backend: str) -> bool:
    """Whether the runner has a module of its own for a backend."""
    return backend in runtimes.MODULES


def write_zip(stream: IO[bytes], members: Mapping[str, bytes], first: str) -> None:
    """Write a zip: ``first``, then the others by name; fixed times, permissions and creator."""
    order = [first, *sorted(name for name in members if name != first)]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in order:
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])


def runner_bytes(backend: Backend | None = None) -> bytes:
    """``runner.pyz``: the runner package and its entry point.

    Args:
        backend: whose artefact it is to run; where its module is none of the runner's own it is
            packed beside them, with the name by which the manifest calls the backend.

    Raises:
        StageFailed: the backend's module is not to be found, or is no file of Python.
    """
    root = Path(runner.__file__).parent
    members = {
        f"runner/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*.py")
    }
    module = "" if backend is None else backend.capabilities.runner
    if backend is not None and module and not runs_itself(backend.name):
        members[f"runner/runtimes/{_OWN}.py"] = _source(module, backend.name)
        table = f"MODULES = {{{backend.name!r}: {_OWN!r}}}\n"
        members["runner/runtimes/more.py"] = table.encode()
    members["__main__.py"] = _RUNNER_MAIN.encode()
    stream = io.BytesIO()
    write_zip(stream, members, "__main__.py")
    return stream.getvalue()


def _source(module: str, backend: str) -> bytes:
    try:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise ImportError("there is no such module")
        return Path(spec.origin).read_bytes()
    except (ImportError, OSError, ValueError) as error:
        raise StageFailed(
            f"backend '{backend}' says that '{module}' runs its artefacts on the device, which "
            f"cannot be read: {error}",
            hint="repair the package that the backend comes from",
        ) from error
