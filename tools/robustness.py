"""Spoils inputs, kills runs, fills disks, runs many at once; docs/robustness.md has what it found.

    python tools/robustness.py mutate --count 2000        # spoilt files through the command line
    python tools/robustness.py names --count 200          # odd names in every place for one
    python tools/robustness.py devices --count 300        # bench --device whose answers are spoilt
    python tools/robustness.py kill --count 200           # compile killed at random moments
    python tools/robustness.py stop --count 60            # stopped by signals
    python tools/robustness.py farm                       # workers that lie, stop or are killed
    python tools/robustness.py sockets                    # which sockets each verb opens
    python tools/robustness.py disk                       # a full disk before each stage
    python tools/robustness.py together --count 8         # so many compiles on one cache

Each prints a table and leaves with 1 when something was wrong. The same seed gives the same files;
the moments of kills depend on the machine. Findings are kept under --work with what caused them.
The first four go on with --resume where they were stopped. Needs the packages of the extra 'dev'
and runs on Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from robust import devices, disk, farms, forks, kills, names, sockets  # noqa: E402 - lies beside this file
from robust.cases import MAKERS, Base, cases  # noqa: E402
from support import dense_family  # noqa: E402 - lies in tests/
from support.data import write_face_folder  # noqa: E402
from support.dense_work import NO_BENCH, write_dense_work  # noqa: E402

#: what takes long and says nothing about spoilt inputs
PLAIN = ("--set=quantize.enabled=false",)


def prepare(folder: Path) -> Base:
    """Whole inputs in an empty folder.

    Raises:
        RuntimeError: one of them could not be made, which is a finding of its own.
    """
    from edgemtl.models import checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    work = write_dense_work(folder, images=2)
    (folder / "dense.pt").rename(folder / "weights.pt")
    checkpoint.save(checkpoint.from_network(dense_family.build()), folder / "model.pt")
    write_face_folder(folder / "faces", count=3)
    shutil.copy(next((work.data / "val" / "images").iterdir()), folder / "picture.jpg")
    for words in (
        ("compile", "model.pt", "--data", "data", "--target=cpu", *NO_BENCH, *PLAIN, "-o", "run"),
        ("gate", "run", "--save-baseline", "baseline.json"),
        ("history", "trend.jsonl", "--add", "run"),
    ):
        left = forks.run(words, folder)
        if left.code:
            raise RuntimeError(f"edgemtl {' '.join(words)}: {left.code}\n{left.said}")
    shutil.copy(folder / "run" / "model" / "model.onnx", folder / "model.onnx")
    shutil.copy(folder / "run" / "recipe.resolved.toml", folder / "recipe.toml")
    return Base(folder, ROOT / "examples" / "mos_t.pt")


#: what is spoilt, each kind with its share
SPOILT = {"mutate": MAKERS, "names": ((names.name, 1),), "devices": ((devices.answer, 1),)}


def spoil(what: str, count: int, seed: int, work: Path) -> int:
    """Spoilt inputs through the command line; the number of findings.

    What was found of each is written down at once, so that a run that was stopped can go on.
    """
    forks.preload()
    base = prepare(work / "base")
    devices.use_our_ssh(work / "bin")
    progress = work / f"done-{seed}.jsonl"
    done = _read(progress)
    total = Counter(entry["kind"] for entry in done.values())
    codes: dict[str, Counter[int]] = {}
    for entry in done.values():
        codes.setdefault(entry["kind"], Counter())[entry["code"]] += 1
    findings = [entry for entry in done.values() if entry["fault"]]
    for number, case, folder in cases(base, count, seed, work, SPOILT[what], done):
        left = forks.run(case.arguments, folder)
        total[case.kind] += 1
        codes.setdefault(case.kind, Counter())[left.code] += 1
        found = forks.fault(left, case.allowed)
        entry = {"number": number, "kind": case.kind, "code": left.code, "fault": found}
        with progress.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        if found:
            words = " ".join(map(repr, map(str, case.arguments)))
            print(f"{number}: {case.kind} ({case.how}): {found}\n    edgemtl {words}", flush=True)
            findings.append({"number": number, "fault": found, "command": words, "said": left.said})
            (work / "findings.json").write_text(json.dumps(findings, indent=1), "utf-8")
        else:
            shutil.rmtree(folder)
        if (number + 1) % 100 == 0:
            print(f"... {number + 1} of {count}, {len(findings)} findings", flush=True)
    print(f"\n{'what':<12} {'files':>6}  exit codes")
    for kind, files in total.items():
        told = ", ".join(f"{code}: {n}" for code, n in sorted(codes[kind].items()))
        print(f"{kind:<12} {files:>6}  {told}")
    print(f"{sum(total.values())} spoilt inputs, {len(findings)} findings (seed {seed})")
    return len(findings)


def _read(progress: Path) -> dict[int, dict[str, Any]]:
    """Number -> what was found, of a run that was stopped; a last line that was cut off is not."""
    done = {}
    for line in progress.read_text("utf-8").splitlines() if progress.exists() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            done[entry["number"]] = entry
    return done


def main() -> int:
    """Run one of them; 1 when something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=(*SPOILT, "kill", "stop", "farm", "sockets", "disk", "together")
    )
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "robustness")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    work = (given.work / given.what).resolve()
    if not given.resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if given.what in SPOILT:
        found = spoil(given.what, given.count or 2000, given.seed, work)
    elif given.what == "kill":
        found = kills.kill_many(given.count or 200, given.seed, work)
    elif given.what == "stop":
        found = kills.stop_many(given.count or 60, given.seed, work)
    elif given.what == "farm":
        found = farms.try_farms(work)
    elif given.what == "sockets":
        found = sockets.of_all_verbs(work)
    elif given.what == "together":
        found = kills.together(given.count or 8, work)
    else:
        found = disk.fill_before_each_stage(work)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
