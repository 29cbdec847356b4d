"""Makes ``tests/support`` importable, property tests repeatable, and keeps the user's cache out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
# These have tests of their own, which need the packages installed (test_plugin_packages.py).
collect_ignore = ["support/packages"]

# Threads that wait by spinning take the processor from those they wait for: where two share a core
# the suite needs twice the time. Read when torch is first imported, here and in processes of tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Where several processes run tests at once they share the processors.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))

# The same examples on every run and machine: a failure found once is found again.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """``os.fsync`` does nothing: only a power cut would tell, and every small file waits for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of stage results for this session alone, here and in processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEMTL_CACHE", str(folder))
        yield folder
