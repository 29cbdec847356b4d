"""A disk that is full before a stage begins: a small file system of our own in memory.

It is mounted in a mount namespace that ``unshare`` makes, so no right of the system's is needed
where users may have namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.dense_work import NO_BENCH, DenseWork, write_dense_work

from robust import forks

MEGABYTES = 192
#: bytes left free: too few for anything but the smallest files
LEFT_FREE = 4096
_INSIDE = "EDGEMTL_ROBUSTNESS_MOUNTED"


def fill_before_each_stage(root: Path) -> int:
    """Run up to a stage, fill the disk, go on: exit code 4; free it, go on: the same bundle."""
    if os.environ.get(_INSIDE) != "1":
        unshare = shutil.which("unshare")
        if unshare is None:
            print("not run: 'unshare' of util-linux is not here")
            return 1
        command = [unshare, "--user", "--map-root-user", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, env={**os.environ, _INSIDE: "1"}).returncode
    place = root / "disk"
    place.mkdir()
    options = f"size={MEGABYTES}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
    forks.preload()
    work = write_dense_work(root / "inputs", images=2)
    os.environ["TMPDIR"] = str(place / "tmp")
    stages, wanted = _whole(work, place)
    findings = 0
    for number, stage in enumerate(stages):
        found = _at(work, place, stages[:number], stage, wanted)
        findings += bool(found)
        print(f"{stage:<20} {found or 'exit code 4, then the same bundle'}", flush=True)
    print(f"{len(stages)} stages, {findings} findings")
    return findings


def _fresh(place: Path) -> None:
    for entry in place.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (place / "tmp").mkdir()
    os.environ["EDGEMTL_CACHE"] = str(place / "cache")


def _flags(work: DenseWork) -> list[object]:
    return ["compile", *work.flags(), "--target=cpu", *NO_BENCH, "-o", "out"]


def _bundle(place: Path) -> bytes:
    return next((place / "out" / "bundle").glob("*.edgemtl")).read_bytes()


def _whole(work: DenseWork, place: Path) -> tuple[list[str], bytes]:
    _fresh(place)
    left = _run(work, place)
    if left.code:
        raise RuntimeError(left.said)
    run = json.loads((place / "out" / "run.json").read_text("utf-8"))
    return [stage["name"] for stage in run["stages"]], _bundle(place)


def _run(work: DenseWork, place: Path, *more: str) -> forks.Left:
    # What a command says goes elsewhere: a log on a full disk would tell nothing.
    said = place.parent / "said"
    said.mkdir(exist_ok=True)
    arguments = [*_flags(work), *more]
    arguments[arguments.index("out")] = place / "out"
    return forks.run(arguments, said)


def _at(work: DenseWork, place: Path, before: list[str], stage: str, wanted: bytes) -> str:
    _fresh(place)
    if before:
        left = _run(work, place, f"--until-stage={before[-1]}")
        if left.code not in (0, 8):  # 8: gates that were not reached are not measured
            return f"could not get there: exit code {left.code}"
    _fill(place)
    full = _run(work, place)
    if found := forks.fault(full, (4,)):
        return f"{found} on a full disk: {full.said[-600:]}"
    if "full" not in full.said and "No space" not in full.said:
        return f"does not say that the disk is full: {full.said[-600:]}"
    (place / "filler").unlink()
    again = _run(work, place)
    if again.code:
        return f"exit code {again.code} when there is room again"
    return "" if _bundle(place) == wanted else "another bundle when there is room again"


def _fill(place: Path) -> None:
    status = os.statvfs(place)
    with (place / "filler").open("wb") as stream:
        free = status.f_bavail * status.f_frsize - LEFT_FREE
        block = bytes(1 << 20)
        while free > 0:
            stream.write(block[: min(free, len(block))])
            free -= len(block)
