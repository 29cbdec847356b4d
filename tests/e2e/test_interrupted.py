"""Compiling is killed at many points; the same command again gives what nobody interrupted gives.

Two ways to die, both by SIGKILL, which no clean-up survives: right before the n-th change on the
disk (exact, so that a rename that comes too early is met), and some time after a line about a
stage (whatever the process is doing then).
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import doomed
from support.dense_work import NO_BENCH, DenseWork, write_dense_work
from support.matrix import only

from edgemtl.pipeline.cache import RECORD, is_whole

POINTS = 10
#: stages whose lines are waited for; the kill comes a share of the next stage's time later
LINES = ("model", "export", "accuracy", "cost", "bundle")
SECONDS = 120.0


@dataclass(frozen=True)
class Whole:
    """A run that nobody interrupted.

    Attributes:
        work: model and data.
        bundle: bytes of its bundle.
        files: names in its run folder.
        steps: changes on the disk.
        seconds: stage -> how long it took.
    """

    work: DenseWork
    bundle: bytes
    files: frozenset[str]
    steps: int
    seconds: dict[str, float]

    def flags(self, output: Path) -> list[object]:
        """The command."""
        return ["compile", *self.work.flags(), "--target=cpu", *NO_BENCH, "-o", output]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    draft = Whole(write_dense_work(folder, images=2), b"", frozenset(), 0, {})
    log = run(draft, folder)
    output = folder / "out"
    stages = json.loads((output / "run.json").read_text("utf-8"))["stages"]
    steps = re.search(r"^steps (\d+)$", log, re.MULTILINE)
    assert steps is not None, log
    return Whole(
        draft.work,
        bundle_of(output),
        names(output),
        int(steps[1]),
        {stage["name"]: stage["seconds"] for stage in stages},
    )


def run(whole: Whole, folder: Path, output: str = "out") -> str:
    """Compile in ``folder``, to the end; what the process said."""
    log = folder / f"{output}.log"
    log.unlink(missing_ok=True)
    process = doomed.start(whole.flags(folder / output), folder / "cache", log)
    process.join(SECONDS)
    assert process.exitcode == 0, log.read_text("utf-8")
    return log.read_text("utf-8")


def bundle_of(output: Path) -> bytes:
    return (output / "bundle" / "dense-cpu.edgemtl").read_bytes()


def names(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check_resumed(whole: Whole, folder: Path) -> None:
    """The same command again ends well, with the same bytes and nothing left lying about."""
    log = run(whole, folder)
    assert "Traceback" not in log
    assert bundle_of(folder / "out") == whole.bundle
    assert names(folder / "out") == whole.files
    facts = json.loads((folder / "out" / "run.json").read_text("utf-8"))
    assert (facts["status"], facts["exit_code"]) == ("passed", 0)

    stages = folder / "cache" / "stages"
    assert list((stages / "scratch").iterdir()) == []
    results = [path.parent for path in stages.glob(f"*/*/{RECORD}")]
    assert len(results) == 10  # of twelve stages two are never kept
    assert all(is_whole(result) for result in results)
    known = {path for result in results for path in (result, *result.rglob("*"))}
    others = {p for p in stages.glob("*/*") if p not in known and p.suffix != ".lock"}
    assert others == set()


@pytest.mark.parametrize("point", only((1, 5, 9), range(POINTS)))
def test_killed_before_a_change_on_the_disk(whole: Whole, tmp_path: Path, point: int) -> None:
    # One seeded step out of each tenth of all, so that the points spread over the whole run.
    low, high = (whole.steps * k // POINTS for k in (point, point + 1))
    step = random.Random(point).randint(low + 1, high)
    log = tmp_path / "killed.log"
    process = doomed.start(whole.flags(tmp_path / "out"), tmp_path / "cache", log, step)
    process.join(SECONDS)
    assert process.exitcode == -9, f"step {step}: {log.read_text('utf-8')}"
    check_resumed(whole, tmp_path)


@pytest.mark.parametrize("stage", only(["export"], LINES))
def test_killed_while_a_stage_works(whole: Whole, tmp_path: Path, stage: str) -> None:
    order = list(whole.seconds)
    following = order[order.index(stage) + 1]
    log = tmp_path / "killed.log"
    process = doomed.start(whole.flags(tmp_path / "out"), tmp_path / "cache", log)
    wait_until(lambda: f"] {stage} " in said(log) or not process.is_alive())
    time.sleep(random.Random(stage).random() * whole.seconds[following])
    doomed.kill(process)
    check_resumed(whole, tmp_path)


def said(log: Path) -> str:
    return log.read_text("utf-8") if log.exists() else ""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.matrix
def test_killed_again_and_again_in_the_same_place(whole: Whole, tmp_path: Path) -> None:
    for step in (whole.steps // 4, whole.steps // 4, 3):
        process = doomed.start(
            whole.flags(tmp_path / "out"), tmp_path / "cache", tmp_path / "killed.log", step
        )
        process.join(SECONDS)
        assert process.exitcode == -9
    check_resumed(whole, tmp_path)


def test_two_at_once_share_a_cache(whole: Whole, tmp_path: Path) -> None:
    processes = [
        doomed.start(whole.flags(tmp_path / name), tmp_path / "cache", tmp_path / f"{name}.log")
        for name in ("a", "b")
    ]
    for process in processes:
        process.join(SECONDS)
    for name, process in zip("ab", processes, strict=True):
        assert process.exitcode == 0, said(tmp_path / f"{name}.log")
        assert bundle_of(tmp_path / name) == whole.bundle
        assert names(tmp_path / name) == whole.files
    # What the one made the other took.
    statuses = [
        stage["status"]
        for name in "ab"
        for stage in json.loads((tmp_path / name / "run.json").read_text("utf-8"))["stages"]
        if stage["name"] not in ("bench", "gates")
    ]
    assert statuses.count("done") == statuses.count("cached") == 10


def test_two_at_once_into_one_folder(whole: Whole, tmp_path: Path) -> None:
    log, cache = tmp_path / "out.log", tmp_path / "cache"
    first = doomed.start(whole.flags(tmp_path / "out"), cache, log)
    wait_until(lambda: (tmp_path / "out" / "run.json").exists())
    second = doomed.start(whole.flags(tmp_path / "out"), cache, tmp_path / "second.log")
    second.join(SECONDS)
    first.join(SECONDS)
    assert first.exitcode == 0, said(log)
    assert bundle_of(tmp_path / "out") == whole.bundle
    assert second.exitcode == 4
    refusal = said(tmp_path / "second.log")
    assert "error: " in refusal and "another run is using this folder" in refusal
    assert "Traceback" not in refusal
