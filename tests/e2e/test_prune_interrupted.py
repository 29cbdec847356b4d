"""Pruning is killed at many points; the same command again gives what nobody interrupted gives."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import doomed
from support.data import write_dense_folder
from support.dense_family import build
from support.dense_work import DenseWork
from support.matrix import only

POINTS = 3
SECONDS = 180.0
#: a search of some steps and a recovery of some, twice
QUICK = (
    "--set=prune.rounds=2",
    "--set=prune.flops=0.35",
    "--set=prune.channel_multiple=2",
    "--set=prune.oracle_images=8",
    "--set=prune.calibration_images=4",
    "--set=recover.steps=6",
    "--set=recover.train=all",
    "--set=recover.learning_rate=1e-3",
    "--set=recover.batch=2",
)


@dataclass(frozen=True)
class Whole:
    """What a run that nobody interrupted left, and how many changes on the disk it took."""

    work: DenseWork
    flags: Callable[[Path], list[object]]
    found: Callable[[Path], Any]
    answer: Any
    steps: int


def run(flags: list[object], folder: Path) -> str:
    """Run to the end; what the process said."""
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    process = doomed.start(flags, folder / "cache", log)
    process.join(SECONDS)
    assert process.exitcode == 0, log.read_text("utf-8")
    return log.read_text("utf-8")


def _whole(
    work: DenseWork,
    folder: Path,
    flags: Callable[[Path], list[object]],
    found: Callable[[Path], Any],
) -> Whole:
    folder.mkdir()
    log = run(flags(folder), folder)
    steps = re.search(r"^steps (\d+)$", log, re.MULTILINE)
    assert steps is not None, log
    return Whole(work, flags, found, found(folder), int(steps[1]))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    folder = tmp_path_factory.mktemp("work")
    torch.save(build().state_dict(), folder / "dense.pt")
    write_dense_folder(folder / "data", "train", 18, seed=1)
    write_dense_folder(folder / "data", "val", 2, seed=2)
    return DenseWork(folder / "dense.pt", folder / "data")


@pytest.fixture(scope="module")
def verb(work: DenseWork, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    def flags(folder: Path) -> list[object]:
        return ["prune", *work.flags_of_the_target(), "-o", folder / "small.pt", *QUICK]

    def found(folder: Path) -> Any:
        story = json.loads((folder / "small.pt.prune.json").read_text("utf-8"))
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("small"))
        return (folder / "small.pt").read_bytes(), _without_times(story), left

    return _whole(work, tmp_path_factory.mktemp("verb") / "whole", flags, found)


def _without_times(story: Any) -> Any:
    """A result less what it took: seconds differ, and going on repeats some work."""
    if isinstance(story, dict):
        kept = {k: v for k, v in story.items() if not k.endswith("seconds") and k != "spent"}
        return {key: _without_times(value) for key, value in kept.items()}
    return [_without_times(value) for value in story] if isinstance(story, list) else story


def _kill_and_go_on(whole: Whole, folder: Path, step: int) -> None:
    log = folder / "killed.txt"
    process = doomed.start(whole.flags(folder), folder / "cache", log, step)
    process.join(SECONDS)
    assert process.exitcode == -9, f"step {step}: {log.read_text('utf-8')}"
    said = run(whole.flags(folder), folder)
    assert "Traceback" not in said
    assert whole.found(folder) == whole.answer


def test_the_whole_run_is_worth_interrupting(verb: Whole) -> None:
    rounds = verb.answer[1]["rounds"]
    assert len(rounds) == 2 and sum(len(one["steps"]) for one in rounds) > 2
    assert all(one["recovery"]["steps"] > 0 for one in rounds)
    assert verb.answer[2] == ["small.pt", "small.pt.prune.json"]


@pytest.mark.parametrize("point", only([1], range(POINTS)))
def test_the_verb_goes_on(verb: Whole, tmp_path: Path, point: int) -> None:
    low, high = (verb.steps * k // POINTS for k in (point, point + 1))
    _kill_and_go_on(verb, tmp_path, random.Random(point).randint(low + 1, high))
