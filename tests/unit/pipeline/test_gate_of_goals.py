"""A goal that the user set and pruning missed: exit code 7, and what stopped the search."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from support import run_page
from support.command import edgemtl
from support.data import write_dense_folder
from support.dense_family import build
from support.dense_work import NO_BENCH, DenseWork, write_dense_work

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.context import PruneContext, PruneOptions
from edgemtl.compress.cost import Goals
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.results import Refusal
from edgemtl.compress.shortfall import Goal, sentence, what_stopped
from edgemtl.data.dense import DenseFolder
from edgemtl.pipeline.gate import binding_goals
from edgemtl.recipes import PruneSection

FIXTURES = Path(__file__).parents[2] / "fixtures"
SLICES = ("--set=prune.oracle_images=4", "--set=prune.calibration_images=4")
#: goes down to the narrowest widths, which are far above the goal
TOO_FAR = ("--set=prune.method=l1-uniform", "--set=prune.flops=0.01", "--set=recover.steps=0")
OFF = ("--set=gates.tasks.parts.max_relative_drop=false",)
OFF += ("--set=gates.tasks.distance.max_relative_drop=false",)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSplits:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=9, seed=3)
    return DataSplits.split([DenseFolder.open(root, "train")], oracle=4, calibration=4)


def context_of(data: DataSplits, **options: Any) -> PruneContext:
    network = build()
    spec = network.input_spec
    prepared = (
        prepare_all(data.oracle, network.tasks, spec, 0),
        prepare_all(data.calibration, network.tasks, spec, 0),
    )
    rest = (Goals(0.1), None, None, None)
    return PruneContext(deepcopy(network), prepared, PruneOptions(**options), *rest)


def test_the_floor_that_a_search_stands_on(data: DataSplits) -> None:
    context = context_of(
        data, budgets={"parts": 1.2}, channel_multiple=4, keep_whole=("decoders.parts",)
    )
    narrowest = {
        group.name: torch.arange(group.width) < min(context.choices[group.name])
        for group in context.groups
    }
    said = what_stopped(context, narrowest, ())
    assert "nothing is left to cut" in said and "multiples of 4 channels" in said
    assert f"{len(context.left_whole)} groups are left whole as asked" in said
    assert "budgets (parts=1.2)" in what_stopped(context, context.all_kept, ())
    refused = [Refusal(name, 8, 4, "no") for name in context.all_kept]
    assert "would not run or export" in what_stopped(context, context.all_kept, refused)
    assert "budgets" in what_stopped(context, context.all_kept, refused[1:])
    free = context_of(data)
    assert "no step was found" in what_stopped(free, free.all_kept, ())
    missed = Goal("params", 0.5, 0.4)
    assert missed.missed and not Goal("params", 0.4, 0.4).missed
    assert "0.500 of the dense network's parameters" in sentence(missed, "why")


def test_only_goals_that_come_first_bind() -> None:
    story = {"goals": {"flops": {"left": 0.4, "asked": 0.3, "missed": True}}, "stopped_by": "x"}
    assert binding_goals(PruneSection(flops=0.3), story) == {"flops": (0.4, 0.3, "x")}
    assert binding_goals(PruneSection(), story) == {}
    assert binding_goals(PruneSection(flops=0.3, priority="tasks"), story) == {}
    assert binding_goals(PruneSection(priority="goal"), story) != {}
    for old in (None, {}, {"goals": {}}):  # a story from before goals were told
        assert binding_goals(PruneSection(flops=0.3), old) == {}


def test_a_bundle_of_version_2_reads_and_says_no_more_than_it_knows() -> None:
    run = FIXTURES / "version_2" / "run"
    goal = "cost.prune.flops"
    assert edgemtl("gate", run, "--json").code == 7
    bundle = run / "bundle" / "dense-cpu.edgemtl"
    assert edgemtl("verify", bundle).code == 0
    told = edgemtl("gate", bundle, "--json")
    assert told.code == 0, told.err
    names = {one["name"] for one in told.json()["outcomes"]}
    assert "cost.macs_ratio" in names and goal not in names


def test_the_verb_writes_everything_and_leaves_with_7(work: DenseWork, tmp_path: Path) -> None:
    out = tmp_path / "small.pt"
    told = edgemtl("prune", *work.flags(), *SLICES, *TOO_FAR, "-o", out)
    assert told.code == 7 and out.is_file()
    assert "nothing is left to cut" in told.error() and "prune.flops" in told.error()
    story = json.loads((tmp_path / "small.pt.prune.json").read_text("utf-8"))
    assert story["goals"]["flops"]["missed"] and story["goals"]["flops"]["asked"] == 0.01
    told = edgemtl("prune", *work.flags(), *SLICES, *TOO_FAR, "--json", "-o", out)
    assert told.code == 7 and told.json()["stopped_by"].startswith("nothing is left to cut")
    # the same goal, giving way
    own = "--set=prune.priority=tasks"
    told = edgemtl("prune", *work.flags(), *SLICES, *TOO_FAR, own, "-o", out)
    assert told.code == 0 and "goal was missed" in told.out


def test_compile_and_gate_judge_it_as_a_cost(work: DenseWork, tmp_path: Path) -> None:
    run = tmp_path / "run"
    common = [*work.flags(), "--target=cpu", "--prune", *SLICES, *NO_BENCH, *OFF]
    common.append("--set=export.parity_images=1")
    told = edgemtl("compile", *common, *TOO_FAR, "-o", run)
    assert told.code == 7, told.err
    gates = json.loads((run / "gates.json").read_text("utf-8"))
    (goal,) = [one for one in gates["outcomes"] if one["name"] == "cost.prune.flops"]
    assert goal["status"] == "fail" and goal["limit"] == 0.01
    assert "nothing is left to cut" in goal["detail"]
    assert "cost.prune.flops" in (run / "report.html").read_text("utf-8")
    assert run_page.problems(run) == []
    again = edgemtl("gate", run, "--json")
    assert again.code == 7 and "nothing is left to cut" in again.out
    # the bundle alone says the same
    of_bundle = edgemtl("gate", run / "bundle" / "dense-cpu.edgemtl", "--json")
    assert of_bundle.code == 7
    assert goal in of_bundle.json()["outcomes"]
    # reached: a gate that passed
    told = edgemtl("compile", *common, *TOO_FAR, "--set=prune.flops=0.9", "-o", tmp_path / "two")
    assert told.code == 0, told.err
    gates = json.loads((tmp_path / "two" / "gates.json").read_text("utf-8"))
    assert {g["name"]: g["status"] for g in gates["outcomes"]}["cost.prune.flops"] == "pass"
