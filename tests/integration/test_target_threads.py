"""A target's threads hold where the recipe says nothing: in sessions, benchmark and bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import edgemtl
from support.dense_work import QUICK_BENCH, write_dense_work

from edgemtl import targets
from edgemtl.bundle.read import open_bundle
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.targets import Target

ROOT = Path(__file__).parents[2]


def target_with(threads: int | None) -> Target:
    return targets.load("intel-cpu").model_copy(update={"threads": threads})


@pytest.mark.parametrize("data", [[], ["data.root='somewhere'"]], ids=["no data", "real data"])
def test_the_recipe_wins_over_the_target_and_the_target_over_one(data: list[str]) -> None:
    def threads(target: int | None, *assignments: str) -> int:
        return recipe_for(target_with(target), None, [*data, *assignments]).bench.threads

    assert threads(None) == 1
    assert threads(3) == 3
    assert threads(0) == 0
    assert threads(3, "bench.threads=2") == 2
    assert threads(3, "bench.seconds=2") == 3


def test_a_bundle_is_built_measured_and_run_with_them(tmp_path: Path) -> None:
    work = write_dense_work(tmp_path / "work")
    text = (ROOT / "targets" / "cpu.toml").read_text("utf-8")
    own = tmp_path / "own.toml"
    own.write_text("threads = 2\n" + text, "utf-8")
    told = edgemtl(
        *("compile", *work.flags(), f"--target={own}", "--no-prune", *QUICK_BENCH),
        *("--set=gates.latency.ratio=false", "-o", tmp_path / "run"),
    )
    assert told.code in (0, 9), told.err
    measured = json.loads((tmp_path / "run" / "bench" / "artefact.json").read_text("utf-8"))
    assert measured["threads"] == 2
    (bundle,) = (tmp_path / "run" / "bundle").glob("*.edgemtl")
    assert open_bundle(bundle).session_options().threads == 2
    quick = ("--seconds=0.1", "--min-runs=5", "--warmup-seconds=0", "--max-seconds=1", "--json")
    assert edgemtl("bench", bundle, *quick).json()["threads"] == 2
    assert edgemtl("bench", bundle, "--threads=1", *quick).json()["threads"] == 1
