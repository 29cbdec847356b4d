"""Equal inputs give equal bundles, whatever the number of threads and whatever the cache holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.dense_work import NO_BENCH

MODEL = Path(__file__).parents[2] / "examples" / "mos_t.pt"
PROGRAM = "from edgemtl.cli.main import main; main()"


def compiled(folder: Path, name: str, threads: int, cache: str, target: str) -> bytes:
    """The bundle of a run in a process that starts with so many threads."""
    words = ["compile", str(MODEL), "--target", target, *NO_BENCH, "--set=prune.enabled=false"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "-o", str(folder / name)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "EDGEMTL_CACHE": str(folder / cache),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return (folder / name / "bundle" / f"mos_t-{target}.edgemtl").read_bytes()


@pytest.mark.matrix
@pytest.mark.parametrize("target", ["cpu", "intel-cpu"])
def test_threads_and_cache_change_no_byte(tmp_path: Path, target: str) -> None:
    one = compiled(tmp_path, "one", 1, "cache", target)
    assert compiled(tmp_path, "two-warm", 2, "cache", target) == one
    assert compiled(tmp_path, "two-cold", 2, "other-cache", target) == one
