"""Compiles that are killed at random moments, and compiles that run at once on one cache."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from support import doomed
from support.dense_work import NO_BENCH, DenseWork, write_dense_work

SECONDS = 300.0


def _flags(work: DenseWork, output: Path) -> list[object]:
    return ["compile", *work.flags(), "--target=cpu", *NO_BENCH, "-o", output]


def _finish(work: DenseWork, folder: Path) -> str:
    """Compile to the end; what went wrong, or nothing."""
    log = folder / "rerun.log"
    process = doomed.start(_flags(work, folder / "out"), folder / "cache", log)
    process.join(SECONDS)
    said = log.read_text("utf-8", "replace")
    if process.exitcode != 0:
        return f"the rerun left with {process.exitcode}: {said[-2000:]}"
    return "traceback" if "Traceback" in said else ""


def _bundle(folder: Path) -> bytes:
    return next((folder / "out" / "bundle").glob("*.edgemtl")).read_bytes()


def _whole(root: Path) -> tuple[DenseWork, bytes, float]:
    """Model and data, the bundle of a run that nobody kills, and how long it takes."""
    os.environ["PYTHONPATH"] = str(Path(doomed.__file__).parents[1])
    folder = root / "whole"
    folder.mkdir()
    work = write_dense_work(root / "inputs", pictures=2)
    found = _finish(work, folder)  # starts the process that all others are forked from
    if found:
        raise RuntimeError(found)
    shutil.rmtree(folder)
    folder.mkdir()
    began = time.monotonic()
    _finish(work, folder)
    return work, _bundle(folder), time.monotonic() - began


def _kill(process: BaseProcess) -> bool:
    """SIGKILL to the process and all that it started; False when it had just ended."""
    try:
        doomed.kill(process)
    except ProcessLookupError:  # not yet the leader of its own group, or gone
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL


def kill_many(count: int, seed: int, root: Path) -> int:
    """SIGKILL at ``count`` random moments, each followed by the same command again.

    The moment is drawn evenly over the time that a whole run took; a run that was faster than its
    moment was not killed and does not count. Half of the runs go on with what the killed one
    left in output folder and cache; of the others every fourth is killed twice in a row.
    """
    work, wanted, seconds = _whole(root)
    rng = random.Random(seed)
    killed = findings = late = 0
    while killed < count:
        folder = root / f"kill-{killed}"
        folder.mkdir()
        hit = 0
        for _ in range(2 if killed % 4 == 3 else 1):
            log = folder / "killed.log"
            process = doomed.start(_flags(work, folder / "out"), folder / "cache", log)
            process.join(rng.random() * seconds)
            if process.is_alive() and _kill(process):
                hit += 1
        if not hit:
            late += 1
            shutil.rmtree(folder)
            continue
        found = _finish(work, folder)
        if not found and _bundle(folder) != wanted:
            found = "another bundle"
        if not found and list((folder / "cache" / "stages" / "scratch").iterdir()):
            found = "scratch left in the cache"
        killed += 1
        if found:
            findings += 1
            print(f"kill {killed}: {found}", flush=True)
        else:
            shutil.rmtree(folder)
        if killed % 10 == 0:
            print(f"... {killed} of {count} killed, {findings} findings", flush=True)
    print(
        f"{killed} runs killed at random moments of {seconds:.1f} s ({late} ended before theirs), "
        f"{findings} whose rerun did not end in the same bundle (seed {seed})"
    )
    return findings


def together(count: int, root: Path) -> int:
    """So many compiles at once on one cache, each into a folder of its own."""
    work, wanted, _ = _whole(root)
    processes = [
        doomed.start(_flags(work, root / f"{n}" / "out"), root / "cache", root / f"{n}.log")
        for n in range(count)
        if (root / f"{n}").mkdir() is None
    ]
    findings = 0
    for number, process in enumerate(processes):
        process.join(SECONDS)
        said = (root / f"{number}.log").read_text("utf-8", "replace")
        if process.exitcode != 0 or "Traceback" in said or _bundle(root / f"{number}") != wanted:
            findings += 1
            print(f"{number}: left with {process.exitcode}\n{said[-2000:]}")
    print(f"{count} compiles at once on one cache, {findings} that did not end in the same bundle")
    return findings
