"""Zips whose bytes depend on their content alone, and the runner as such a zip.

Members are stored, not deflated: weights hardly shrink, and deflate gives other bytes with another
zlib, which would break "same inputs, same bytes" between machines.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from edgemtl.devices import runner

#: the earliest time a zip can hold
EPOCH = (1980, 1, 1, 0, 0, 0)

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


def write_zip(stream: IO[bytes], members: Mapping[str, bytes], first: str) -> None:
    """Write a zip: ``first``, then the others by name; fixed times, permissions and creator."""
    order = [first, *sorted(name for name in members if name != first)]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in order:
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])


def runner_bytes() -> bytes:
    """``runner.pyz``: the runner package and its entry point."""
    root = Path(runner.__file__).parent
    members = {
        f"runner/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*.py")
    }
    members["__main__.py"] = _RUNNER_MAIN.encode()
    stream = io.BytesIO()
    write_zip(stream, members, "__main__.py")
    return stream.getvalue()
