"""What earlier versions left still reads: checkpoints, bundles, run folders, baselines.

The files are described in ``tests/fixtures/before_house/README.md``. A test here that fails
says that a user's old file has become unreadable; mend the reader, never the file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import dense_family
from support.command import edgemtl

from edgemtl.models.checkpoint import load

BEFORE = Path(__file__).parents[1] / "fixtures" / "before_house"
ROOT = Path(__file__).parents[2]
RUN, RUN_INT8 = BEFORE / "run", BEFORE / "run_int8"
PLAIN, PER_TASK = (run / "bundle" / "dense-cpu.edgemtl" for run in (RUN, RUN_INT8))
BUNDLES = {"plain": PLAIN, "per-task": PER_TASK, "routed": BEFORE / "routed.edgemtl"}
TASKS = {"parts", "distance"}

bundles = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=list(BUNDLES))


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("name", ["dense.pt", "run/model/pruned.pt"])
def test_a_checkpoint_builds_the_network_that_it_was(name: str) -> None:
    stored = load(BEFORE / name)
    network = stored.network()
    assert isinstance(network, dense_family.TinyDense)
    with torch.no_grad():
        answers = network(torch.zeros(1, 3, 32, 48))
    assert {key: tuple(value.shape) for key, value in answers.items()} == {
        "parts.logits": (1, 4, 8, 12),
        "distance.depth": (1, 1, 16, 24),
    }


def test_the_pruned_checkpoint_has_the_widths_of_its_prune_json() -> None:
    story = read(RUN / "prune.json")
    state = load(RUN / "model" / "pruned.pt").network().state_dict()
    first = {name: before for name, (before, _) in story["rounds"][0]["widths"].items()}
    last = {name: after for name, (_, after) in story["rounds"][-1]["widths"].items()}
    assert {name: state[f"{name}.weight"].shape[0] for name in last} == last
    assert sum(last.values()) < sum(first.values())
    assert sum(value.numel() for value in state.values()) < 5600


@bundles
def test_a_bundle_verifies(bundle: Path) -> None:
    told = edgemtl("verify", bundle, "--json")
    assert told.code == 0, told.err
    assert told.json()["cases"] == 1


@bundles
@pytest.mark.parametrize("whose", ["its own", "today's"])
def test_a_bundle_verifies_with_its_own_runner_and_with_todays(bundle: Path, whose: str) -> None:
    command = [str(bundle), "verify"]
    if whose == "today's":
        program = "import sys; from edgemtl.devices.runner.cli import main; sys.exit(main(*ARGS))"
        command = ["-c", program.replace("ARGS", repr((["verify"], str(bundle))))]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert {"selftest", "runtime"} <= set(told)


def test_a_bundle_with_a_graph_per_task_runs_one_task(tmp_path: Path) -> None:
    import cv2

    image, drawn = tmp_path / "picture.png", tmp_path / "drawn.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    for bundle in BUNDLES.values():
        told = edgemtl("run", bundle, image, "-o", drawn, "--json")
        assert told.code == 0 and set(told.json()["tasks"]) == TASKS, told.err
    alone = edgemtl("run", PER_TASK, image, "--task=distance", "-o", drawn, "--json")
    assert alone.code == 0 and set(alone.json()["tasks"]) == {"distance"}, alone.err


def test_a_routed_bundle_says_which_networks_it_holds() -> None:
    done = subprocess.run(
        [sys.executable, str(BUNDLES["routed"]), "verify"], capture_output=True, text=True
    )
    networks = json.loads(done.stdout)["runtime"]["networks"]
    assert set(networks) == {"full", "prototype-1", "prototype-2"}


@pytest.mark.parametrize("run", [RUN, RUN_INT8], ids=["pruned", "int8"])
def test_gates_are_judged_again_to_the_same_verdicts(run: Path) -> None:
    stored = read(run / "gates.json")
    told = edgemtl("gate", run, "--json")
    assert told.code == stored["exit_code"], told.err
    verdicts = {row["name"]: (row["status"], row["measured"]) for row in stored["outcomes"]}
    again = {row["name"]: (row["status"], row["measured"]) for row in told.json()["outcomes"]}
    assert again == verdicts and verdicts


def test_a_baseline_a_run_and_a_bundle_compare_with_each_other(tmp_path: Path) -> None:
    told = edgemtl("gate", RUN, "--baseline", BEFORE / "baseline.json", "--json")
    assert told.code == 0, told.err
    changes = told.json()["regression"]["changes"]
    assert {row["status"] for row in changes} <= {"pass", "reported"}
    assert any(row["name"].startswith("regression.latency") for row in changes)
    for place in (RUN_INT8, PLAIN, PER_TASK, BEFORE / "baseline.json"):
        told = edgemtl("diff", RUN, place, "--json")
        assert told.code == 0, told.err
        names = {row["name"] for row in told.json()["changes"]}
        assert {f"regression.tasks.{name}" for name in ("parts.miou", "distance.rmse_m")} <= names
    saved = edgemtl("gate", RUN, "--save-baseline", tmp_path / "again.json")
    assert saved.code == 0, saved.err
    assert read(tmp_path / "again.json")["tasks"] == read(BEFORE / "baseline.json")["tasks"]


def test_history_goes_on(tmp_path: Path) -> None:
    trend = Path(shutil.copy(BEFORE / "trend.jsonl", tmp_path))
    told = edgemtl("history", trend, "--add", RUN, "--label", "again", "--json")
    assert told.code == 0, told.err
    assert [entry["label"] for entry in told.json()] == ["before", "again"]


@pytest.mark.parametrize("run", [RUN, RUN_INT8], ids=["pruned", "int8"])
def test_a_report_is_written_from_the_stored_results(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    told = edgemtl("report", folder)
    assert told.code == 0, told.err
    page = (folder / "report.html").read_text("utf-8")
    text = (folder / "report.md").read_text("utf-8")
    for task in TASKS:
        assert task in page and task in text
    assert "not readable" not in page
    if run is RUN:
        assert "l1-uniform" in page and "decoders.parts.refine.conv" in page
