"""Compiles that are killed at random moments, and compiles that run at once on one cache."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from support import doomed
from support.dense_work import NO_BENCH, DenseWork, write_dense_work

from edgemtl.backends.tvm import board

SECONDS = 300.0
_PLAIN = ("--set=quantize.enabled=false",)
#: the graph's own notes are more than int8 saves of a network this small
_ANY_SIZE = "--set=gates.cost.size_ratio=false"
#: two rounds of some steps, each with a recovery of some
_PRUNED = (
    *_PLAIN,
    "--set=prune.enabled=true",
    "--set=prune.rounds=2",
    "--set=prune.flops=0.35",
    "--set=prune.channel_multiple=2",
    "--set=prune.oracle_images=4",
    "--set=prune.calibration_images=4",
    "--set=recover.steps=6",
    "--set=recover.train=all",
    "--set=recover.batch=2",
)
#: what is killed -> the flags that it is compiled with
KINDS: Mapping[str, Sequence[str]] = {
    "cpu": ("--target=cpu", *_PLAIN),
    "intel-cpu": ("--target=intel-cpu", *_PLAIN),
    "jetson": ("--target=jetson", *_PLAIN),
    "tvm-x86": ("--target=tvm-x86", *_PLAIN),
    "zcu104": ("--target=zcu104", _ANY_SIZE),
    "pruning": ("--target=cpu", *_PRUNED),
    "quantising": ("--target=intel-cpu", "--set=quantize.max_evaluations=3", _ANY_SIZE),
}


def _flags(work: DenseWork, output: Path, kind: str = "cpu") -> list[object]:
    return ["compile", *work.flags_of_the_target(), *KINDS[kind], *NO_BENCH, "-o", output]


def _finish(work: DenseWork, folder: Path, kind: str = "cpu") -> str:
    """Compile to the end; what went wrong, or nothing."""
    log = folder / "rerun.log"
    process = doomed.start(_flags(work, folder / "out", kind), folder / "cache", log)
    process.join(SECONDS)
    said = log.read_text("utf-8", "replace")
    if process.exitcode != 0:
        return f"the rerun left with {process.exitcode}: {said[-2000:]}"
    return "traceback" if "Traceback" in said else ""


def _bundle(folder: Path) -> bytes:
    return next((folder / "out" / "bundle").glob("*.edgemtl")).read_bytes()


@dataclass(frozen=True)
class Whole:
    """A run that nobody kills.

    Attributes:
        work: model and data.
        bundle: what it ends with.
        seconds: how long it takes.
    """

    work: DenseWork
    bundle: bytes
    seconds: float


def _whole(root: Path, kind: str = "cpu") -> Whole:
    """Model and data, the bundle of a run that nobody kills, and how long it takes."""
    os.environ["PYTHONPATH"] = str(Path(doomed.__file__).parents[1])
    folder = root / f"whole-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    work = write_dense_work(root / "inputs", images=10)
    found = _finish(work, folder, kind)  # starts the process that all others are forked from
    if found:
        raise RuntimeError(f"{kind}: {found}")
    shutil.rmtree(folder)
    folder.mkdir()
    began = time.monotonic()
    _finish(work, folder, kind)
    return Whole(work, _bundle(folder), time.monotonic() - began)


def _kill(process: BaseProcess) -> bool:
    """SIGKILL to the process and all that it started; False when it had just ended."""
    try:
        doomed.kill(process)
    except ProcessLookupError:  # not yet the leader of its own group, or gone
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL


def kill_many(count: int, seed: int, root: Path, kinds: Sequence[str] = tuple(KINDS)) -> int:
    """SIGKILL at ``count`` random moments, each followed by the same command again.

    The kinds take turns. The moment is drawn evenly over the time that a whole run took; a run that
    was faster than its moment was not killed and does not count. Every fourth is killed twice in a
    row. What was found of each is written down at once, so that a run that was stopped can go on.
    """
    if "zcu104" in kinds and board.WHEELS not in os.environ:
        # Each rerun has a cache of its own, into which they would be fetched again.
        os.environ[board.WHEELS] = str(root / "wheels")
        board.download_wheels(root / "wheels")
    wholes = {kind: _whole(root, kind) for kind in kinds}
    progress = root / f"done-{seed}.jsonl"
    lines = progress.read_text("utf-8").splitlines() if progress.exists() else []
    done: list[dict[str, Any]] = [json.loads(line) for line in lines]
    rng = random.Random(f"{seed}:{len(done)}")
    while len(done) < count:
        kind = kinds[len(done) % len(kinds)]
        folder = root / f"kill-{len(done)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        entry = {"kind": kind, "late": 0, "fault": ""}
        while not _killed(wholes[kind], kind, folder, rng, 2 if len(done) % 4 == 3 else 1):
            entry["late"] = int(str(entry["late"])) + 1
            shutil.rmtree(folder)
            folder.mkdir()
        entry["fault"] = _fault(wholes[kind], kind, folder)
        done.append(entry)
        with progress.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        if entry["fault"]:
            print(f"kill {len(done)} ({kind}): {entry['fault']}", flush=True)
        else:
            shutil.rmtree(folder)
        if len(done) % 10 == 0:
            print(f"... {len(done)} of {count} killed", flush=True)
    findings = sum(bool(entry["fault"]) for entry in done)
    _print_kills(done, wholes)
    print(
        f"{len(done)} runs killed at random moments, {findings} whose rerun did not end in the "
        f"same bundle (seed {seed})"
    )
    return findings


def _print_kills(done: Sequence[Mapping[str, Any]], wholes: Mapping[str, Whole]) -> None:
    killed = Counter(entry["kind"] for entry in done)
    print(f"\n{'what':<12} {'killed':>6} {'late':>5} {'findings':>8}")
    for kind in wholes:
        of_it = [entry for entry in done if entry["kind"] == kind]
        late, found = sum(e["late"] for e in of_it), sum(bool(e["fault"]) for e in of_it)
        print(f"{kind:<12} {killed[kind]:>6} {late:>5} {found:>8}")


def _killed(whole: Whole, kind: str, folder: Path, rng: random.Random, times: int) -> bool:
    """Kill a run, so many times in a row; False where it ended before all its moments."""
    hit = False
    for _ in range(times):
        log = folder / "killed.log"
        process = doomed.start(_flags(whole.work, folder / "out", kind), folder / "cache", log)
        process.join(rng.random() * whole.seconds)
        hit = (process.is_alive() and _kill(process)) or hit
        process.join(SECONDS)
    return hit


def _fault(whole: Whole, kind: str, folder: Path) -> str:
    """What is wrong with the rerun of a run that was killed; empty when nothing is."""
    found = _finish(whole.work, folder, kind)
    if not found and _bundle(folder) != whole.bundle:
        return "another bundle"
    if not found and list((folder / "cache" / "stages" / "scratch").iterdir()):
        return "scratch left in the cache"
    return found


def stop_many(count: int, seed: int, root: Path) -> int:
    """SIGTERM, SIGHUP or Ctrl-C at ``count`` random moments; the number of findings.

    The run must leave with 143, 129 or 130, with what it started and its scratch gone; then the
    same command must end with the same bundle.
    """
    kinds = ("cpu", "tvm-x86", "pruning")
    wholes = {kind: _whole(root, kind) for kind in kinds}
    rng, stopped, late, findings = random.Random(seed), 0, 0, 0
    while stopped < count:
        kind = kinds[stopped % len(kinds)]
        folder = root / f"stop-{stopped}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        number = rng.choice((signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
        flags = _flags(wholes[kind].work, folder / "out", kind)
        process = doomed.start(flags, folder / "cache", folder / "stopped.log")
        # Not before it can have said how it takes signals.
        process.join(0.3 + rng.random() * wholes[kind].seconds)
        if not process.is_alive() or process.pid is None:
            late += 1
            continue
        running = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        process.join(SECONDS)
        if process.exitcode == 0:  # it had just ended
            late += 1
            continue
        _, alive = psutil.wait_procs(running, timeout=10)
        found = ""
        if process.exitcode != 128 + number:
            found = f"left with {process.exitcode} after {number.name}"
        elif [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]:
            found = "what it had started goes on"
        elif [*folder.glob("cache/stages/scratch/*")]:
            found = "scratch left in the cache"
        found = found or _fault(wholes[kind], kind, folder)
        stopped += 1
        findings += bool(found)
        if found:
            print(f"stop {stopped} ({kind}): {found}", flush=True)
        else:
            shutil.rmtree(folder)
    print(
        f"{stopped} runs stopped by signals ({late} ended before theirs), {findings} findings "
        f"(seed {seed})"
    )
    return findings


def together(count: int, root: Path) -> int:
    """So many compiles at once on one cache, each into a folder of its own."""
    whole = _whole(root)
    processes = [
        doomed.start(_flags(whole.work, root / f"{n}" / "out"), root / "cache", root / f"{n}.log")
        for n in range(count)
        if (root / f"{n}").mkdir() is None
    ]
    findings = 0
    for number, process in enumerate(processes):
        process.join(SECONDS)
        said = (root / f"{number}.log").read_text("utf-8", "replace")
        if (
            process.exitcode != 0
            or "Traceback" in said
            or _bundle(root / f"{number}") != whole.bundle
        ):
            findings += 1
            print(f"{number}: left with {process.exitcode}\n{said[-2000:]}")
    print(f"{count} compiles at once on one cache, {findings} that did not end in the same bundle")
    return findings
