"""Prints what the command line takes against what it may take: seconds and memory.

Every figure is of whole processes, from their start to their end: ``edgemtl --help``, ``edgemtl
inspect`` of the demo network (median of several), and ``edgemtl compile`` of it for this machine's
CPU, and of its pruned form for a Jetson, each with an empty cache, with the largest memory that its
processes took together. Run it on a machine that does nothing else.

    python tools/bench_budget.py [--repeats 5] [--model examples/mos_m.pt]

Exit code 1 when one is over its limit or does not work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).with_name("edgemtl")
MODEL, SUBSTITUTE = ROOT / "examples" / "mos_m.pt", ROOT / "examples" / "mos_t.pt"
SAMPLE_SECONDS = 0.05
PRUNED = ROOT / "examples" / "mos_m_pruned.pt"
HELP_SECONDS, INSPECT_SECONDS, COMPILE_SECONDS = 0.5, 5.0, 60.0
COMPILE_BYTES = 3e9
#: exit code of a run whose gates could not all be judged
NOT_MEASURED = 8


@dataclass(frozen=True)
class Measured:
    """One process and all that it started.

    Attributes:
        seconds: from start to end.
        peak_bytes: largest sum of resident memory, sampled; pages that processes share count once
            for each of them, so it is rather too large than too small.
        code: exit code.
        said: the end of its standard error.
    """

    seconds: float
    peak_bytes: float
    code: int
    said: str


def measure(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in ``folder`` to its end."""
    with tempfile.TemporaryFile() as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        peak = 0.0
        while True:
            peak = max(peak, _tree_bytes(process.pid))
            try:
                code = process.wait(SAMPLE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - began
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace")
    return Measured(seconds, peak, code, said[-2000:])


def _tree_bytes(pid: int) -> float:
    total = 0.0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended
    except psutil.Error:
        pass
    return total


@dataclass(frozen=True)
class Row:
    """A figure and its limit, in the same unit."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "OVER"
        figures = f"{self.value:8.2f} {self.unit:<2}  limit {self.limit:6.2f} {self.unit:<2}"
        return f"{self.what:<42} {figures}  {verdict}"


def median_of(
    command: Sequence[str | Path], folder: Path, repeats: int, what: str, limit: float
) -> Row:
    """Median seconds of several runs, after one that warms the disk's cache.

    Raises:
        RuntimeError: a run does not leave with 0.
    """
    runs = [_working(command, folder, {}) for _ in range(repeats + 1)]
    return Row(what, statistics.median(run.seconds for run in runs[1:]), limit, "s")


def _working(
    command: Sequence[str | Path],
    folder: Path,
    environment: Mapping[str, str],
    fine: Sequence[int] = (0,),
) -> Measured:
    run = measure(command, folder, environment)
    if run.code not in fine:
        raise RuntimeError(f"{' '.join(map(str, command))} left with {run.code}:\n{run.said}")
    return run


def rows(model: Path, repeats: int) -> list[Row]:
    """All figures.

    Raises:
        RuntimeError: one of the commands does not work.
    """
    name = model.name
    with tempfile.TemporaryDirectory(prefix="edgemtl-budget-") as text:
        folder = Path(text)
        shown = [
            median_of([PROGRAM, "--help"], folder, repeats, "edgemtl --help", HELP_SECONDS),
            median_of(
                [PROGRAM, "inspect", model],
                folder,
                repeats,
                f"edgemtl inspect {name}",
                INSPECT_SECONDS,
            ),
        ]
        jobs = [(model, "cpu")] + ([(PRUNED, "jetson")] if PRUNED.exists() else [])
        for subject, target in jobs:
            compiled = _working(
                [PROGRAM, "compile", subject, "--target", target, "-o", folder / target],
                folder,
                {"EDGEMTL_CACHE": str(folder / f"cache-{target}")},
                # A latency gate cannot be judged where this machine is not the device.
                (0, NOT_MEASURED) if target == "jetson" else (0,),
            )
            what = f"edgemtl compile {subject.name} --target {target}"
            memory = compiled.peak_bytes / 1e9
            shown.append(Row(what, compiled.seconds, COMPILE_SECONDS, "s"))
            shown.append(Row(f"{what}, memory", memory, COMPILE_BYTES / 1e9, "GB"))
    return shown


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of the short commands")
    parser.add_argument("--model", type=Path, default=MODEL, help="checkpoint")
    arguments = parser.parse_args()
    model: Path = arguments.model.resolve()
    if not model.exists() and model == MODEL:
        print(f"{MODEL.name} is not there; {SUBSTITUTE.name} stands in for it, which is smaller")
        model = SUBSTITUTE
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f} before the first command")
    try:
        found = rows(model, arguments.repeats)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for row in found:
        print(row)
    return 0 if all(row.ok for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
