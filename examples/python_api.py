"""Compile a network for two targets, read the results, draw accuracy against latency.

    python examples/python_api.py examples/mos_t.pt --output runs/python

docs/python.md explains every name that is used here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

import edgemtl
from edgemtl.recipes import BenchSection, DataSection


def compile_all(
    model: Path, targets: Sequence[str], output: Path, recipe: edgemtl.Recipe
) -> dict[str, edgemtl.Run]:
    """One run per target."""
    runs = {}
    for target in targets:
        print(f"compiling {model} for {target} ...")
        runs[target] = edgemtl.compile(model, target, output=output / target, recipe=recipe)
    return runs


def tell(runs: Mapping[str, edgemtl.Run]) -> None:
    """What came of them, read as objects."""
    for target, run in runs.items():
        print(f"\n{target}: {'good enough' if run.passed else 'NOT good enough'}, {run.bundle}")
        print(f"  multiply-accumulates {run.macs}")
        print(f"  latency {run.latency or f'not measured: {run.not_timed}'}")
        for task in run.tasks.values():
            print(f"  {task}")
        for gate in run.gates:
            if not gate.ok:
                print(f"  {gate}")


def draw(runs: Mapping[str, edgemtl.Run], picture: Path) -> None:
    """Latency to the right, each task's figure upwards, in a panel of its own."""
    tasks = next(iter(runs.values())).tasks
    figure = Figure(figsize=(4 * len(tasks), 4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for target, run in runs.items():
            latency, found = run.latency, run.tasks[task]
            if latency is None or found.value is None:
                continue
            spread = [[latency.p50_ms - latency.low_ms], [latency.high_ms - latency.p50_ms]]
            axes.errorbar(latency.p50_ms, found.value, xerr=spread, fmt="o", label=target)
        axes.set_title(task)
        axes.set_xlabel("latency p50, ms")
        axes.set_ylabel(
            f"{tasks[task].label} {tasks[task].unit} ({tasks[task].direction} is better)"
        )
        axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the whole; the exit code is that of the first run that is not good enough."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--targets", nargs="+", default=["cpu", "intel-cpu"])
    parser.add_argument("--output", type=Path, default=Path("runs/python"))
    parser.add_argument("--pictures", type=int, default=None, help="use only so many pictures")
    parser.add_argument("--seconds", type=float, default=3.0, help="time every bundle so long")
    asked = parser.parse_args(arguments)
    recipe = edgemtl.Recipe(
        data=DataSection(limit=asked.pictures),
        bench=BenchSection(seconds=asked.seconds, min_runs=20, warmup_seconds=asked.seconds / 3),
    )
    try:
        runs = compile_all(asked.model, asked.targets, asked.output, recipe)
    except edgemtl.EdgemtlError as error:
        print(f"error: {error}")
        return int(error.exit_code)
    tell(runs)
    picture = asked.output / "accuracy-latency.png"
    draw(runs, picture)
    print(f"\n{picture}")
    return next((int(run.exit_code) for run in runs.values() if not run.passed), 0)


if __name__ == "__main__":
    raise SystemExit(main())
