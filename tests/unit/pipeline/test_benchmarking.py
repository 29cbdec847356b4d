"""The verb's request: what it asks of this machine is what it asks of a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import edgemtl

from edgemtl.pipeline.benchmarking import BenchFiles
from edgemtl.recipes import BenchSection


def test_a_device_is_asked_for_the_same_seconds_and_runs() -> None:
    how = BenchSection(seconds=2.5, min_runs=40, warmup_seconds=0.5)
    flags = ["--warm-up", "0.5", "--min-runs", "40", "--min-seconds", "2.5"]
    assert BenchFiles(Path("a"), how=how).runner_flags() == flags
    assert BenchFiles(Path("a"), how=how, threads=0).runner_flags() == [*flags, "--threads", "0"]


@pytest.mark.parametrize("flag", ["--seconds=1e30", "--max-seconds=inf", "--min-runs=99999999999"])
def test_what_a_recipe_refuses_the_verb_refuses(flag: str) -> None:
    told = edgemtl("bench", "absent.edgemtl", flag)
    assert told.code == 2
    assert f"bench.{flag[2:].partition('=')[0].replace('-', '_')}" in told.error()
