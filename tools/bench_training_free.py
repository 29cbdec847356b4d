"""Prune without a training step and measure: the first tables of docs/pruning.md; resumable.

    python tools/bench_training_free.py run --model examples/mos_m.pt --shares 0.6 0.4 0.3 0.2
    python tools/bench_training_free.py run --model examples/mos_m.pt --methods pagcp --seeds 0 1 2 --shares 0.4
    python tools/bench_training_free.py run --model work/strangers/resnet18.pt --shares 0.6 0.4
    python tools/bench_training_free.py run --model examples/mos_m.pt --methods pagcp --compensate yes --latency cpu --shares 0.5
    python tools/bench_training_free.py time --model examples/mos_m.pt --methods pagcp --compensate yes
    python tools/bench_training_free.py cost --model examples/mos_m.pt --oracle 64 --calibration 64
    python tools/bench_training_free.py speed --model examples/mos_m.pt --methods pagcp --shares 0.4
    python tools/bench_training_free.py table

A cell is a method, with or without compensation, at a share of the dense network's work, or with
``--latency TARGET`` of its milliseconds there. Searches see training splits only; the validation
splits are looked at when a cell is done, and choose nothing. Every cell is kept under ``--work`` and
is not done twice; cells of one network share what is the same for all of them, the pass over the
calibration pictures above all, which each of them counts. ``time`` does a cell anew in this process,
which shares nothing. Seconds are worth something on a machine that does nothing else.
"""

# ruff: noqa: E501 - commands are shown on one line

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# With more threads than free processors spinning makes everything many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from entry import run_tool
from pruning import strangers  # noqa: F401 - registers its families
from pruning.tables import worst_drop, write_tables

from edgemtl import targets
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.latency_model import Latency
from edgemtl.compress.prune import methods, prune, save_pruned
from edgemtl.compress.search_cost import peak_mib
from edgemtl.data.open import open_dataset
from edgemtl.data.samples import Dataset
from edgemtl.files import write_json
from edgemtl.logs import Lines
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network

#: which data set has a task's labels
SETS = {
    "detection": "faces_crowd",
    "landmarks": "faces_landmarks",
    "pose": "faces_landmarks",
    "parts": "people_parts",
    "saliency": "people_parts",
    "edges": "people_parts",
    "normals": "indoor_rgbd",
    "depth": "indoor_rgbd",
}
#: the faithful search costs an hour and has a row of its own
SLOW = {"pagcp-paper"}


@dataclass(frozen=True)
class Cell:
    """One pruned network.

    Attributes:
        method: name of the pruning method.
        compensate: whether readers are solved again for what was removed.
        share: of the multiply-accumulates to keep.
        seed: of everything random, the choice of pictures included.
        labels: whether the search sees labels.
        target: on which the share is of milliseconds; empty for work.
    """

    method: str
    compensate: bool
    share: float
    seed: int
    labels: bool = True
    target: str = ""

    @property
    def name(self) -> str:
        """Of its files."""
        how = "solved" if self.compensate else "cut"
        parts = [self.method, how, f"{self.share:g}", str(self.seed)]
        parts += [] if self.labels else ["bare"]
        parts += [f"ms-{self.target}"] if self.target else []
        return "-".join(parts)


class Bare:
    """A data set without its labels."""

    def __init__(self, dataset: Dataset) -> None:
        self._inner, self.name = dataset, f"{dataset.name} without labels"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Any:
        from dataclasses import replace

        return (replace(sample, labels={}) for sample in self._inner)

    def subset(self, indices: Any) -> Bare:
        """These pictures, without their labels."""
        return Bare(self._inner.subset(indices))

    def fingerprint(self) -> str:
        """Another than that of the data set with labels."""
        return f"bare {self._inner.fingerprint()}"


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def folder_of(options: argparse.Namespace) -> Path:
    """Where everything about this model is kept."""
    place: Path = options.work / options.model.stem
    place.mkdir(parents=True, exist_ok=True)
    return place


def sets_of(network: MultiTaskNetwork) -> list[str]:
    """The data sets that a network's tasks are labelled in."""
    return list(dict.fromkeys(SETS[task.name] for task in network.tasks))


def training_data(
    options: argparse.Namespace, network: MultiTaskNetwork, seed: int, labels: bool
) -> DataSplits:
    """Held-out and calibration slices of the training splits, with or without their labels."""
    parts: list[Any] = [open_dataset(options.data / name, "train") for name in sets_of(network)]
    if not labels:
        parts = [Bare(part) for part in parts]
    return DataSplits.split(parts, options.oracle, options.calibration, seed)


def accuracy(network: MultiTaskNetwork, data: Path) -> dict[str, float | None]:
    """Task -> its primary figure on the validation split that labels it."""
    found: dict[str, float | None] = {}
    for name in sets_of(network):
        dataset = open_dataset(data / name, "val")
        report = evaluate(network_runner(network), network.tasks, network.input_spec, dataset)
        for task in network.tasks:
            if SETS[task.name] == name:
                found[task.name] = report.tasks[task.name].values[task.primary.key]
    return found


def dense_accuracy(options: argparse.Namespace, network: MultiTaskNetwork) -> dict[str, Any]:
    """Measured once, kept."""
    path = folder_of(options) / "dense.json"
    if not path.is_file():
        tell("measuring the dense network on the validation splits")
        primaries = {task.name: [task.primary.label, task.primary.unit] for task in network.tasks}
        write_json(path, {"accuracy": accuracy(network, options.data), "figures": primaries})
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def drops(network: MultiTaskNetwork, before: Any, after: Any) -> dict[str, float | None]:
    """Task -> relative drop of its primary figure; positive is worse, None lost altogether."""
    found: dict[str, float | None] = {}
    for task in network.tasks:
        one, two = before[task.name], after[task.name]
        if one is not None:
            drop = task.primary.relative_drop(one, math.nan if two is None else two)
            found[task.name] = drop if math.isfinite(drop) else None
    return found


def run_cell(options: argparse.Namespace, cell: Cell) -> None:
    """Prune, measure, keep."""
    place = folder_of(options)
    path = place / f"{cell.name}.json"
    if path.is_file():
        return
    network = load_network(options.model)
    reference = dense_accuracy(options, network)["accuracy"]
    data = training_data(options, network, cell.seed, cell.labels)
    with Lines(lambda line: tell(f"  {line}")).shown():
        result = prune(
            network, data, asked_of(options, cell), place / "state", latency_of(options, cell)
        )
    save_pruned(result, place / f"{cell.name}.pt", {"pruned_from": options.model.name})
    after = accuracy(result.network, options.data)
    found = {
        "cell": cell.__dict__,
        "macs": result.pruned.macs / result.dense.macs,
        "params": result.pruned.params / result.dense.params,
        "accuracy": after,
        "drops": drops(network, reference, after),
        "cost": result.rounds[0].spent.to_dict(),
        "latency": [one.to_dict() for one in result.rounds[0].latency],
        "notes": list(result.notes),
        "images": {"calibration": options.calibration, "held_out": options.oracle},
    }
    write_json(path, found)
    shares = f"{found['macs']:.3f} of MACs, {found['params']:.3f} of parameters"
    tell(f"{cell.name}: {shares}, worst {worst_drop(found)}")


def asked_of(options: argparse.Namespace, cell: Cell) -> PruneOptions:
    """What a cell asks of pruning."""
    return PruneOptions(
        method=cell.method,
        flops=None if cell.target else cell.share,
        latency_ratio=cell.share if cell.target else None,
        channel_multiple=options.multiple,
        seed=cell.seed,
        compensate=cell.compensate,
    )


def latency_of(options: argparse.Namespace, cell: Cell) -> Latency | None:
    """The stopwatch of a cell's target; what it measured is kept for the next cell."""
    if not cell.target:
        return None
    target = targets.load(cell.target)
    return Latency(target, options.multiple, options.work / "latency", threads=1)


def time_cell(options: argparse.Namespace, cell: Cell) -> None:
    """From the pictures to the checkpoint, once more and with nothing shared."""
    path = folder_of(options) / f"time-{cell.name}.json"
    if path.is_file():
        return
    network = load_network(options.model)
    began, worked = time.monotonic(), time.process_time()
    data = training_data(options, network, cell.seed, cell.labels)
    result = prune(network, data, asked_of(options, cell))
    with tempfile.TemporaryDirectory() as name:
        save_pruned(result, Path(name) / "pruned.pt")
    found = {
        "cell": cell.__dict__,
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - worked,
        "threads": options.threads,
        "peak_mib": peak_mib(),
        "passes": result.rounds[0].spent.passes,
        "images": {"calibration": options.calibration, "held_out": options.oracle},
    }
    write_json(path, found)
    tell(f"{cell.name}: {found['seconds']:.1f} s, {found['peak_mib']:.0f} MiB")


def cells(options: argparse.Namespace) -> list[Cell]:
    """What the flags ask for."""
    names = options.methods or [name for name in methods() if name not in SLOW]
    modes = {"both": (True, False), "yes": (True,), "no": (False,)}[options.compensate]
    return [
        Cell(name, mode, share, seed, not options.bare, options.latency)
        for share, mode, name, seed in itertools.product(
            options.shares, modes, names, options.seeds
        )
    ]


def oracle_cost(options: argparse.Namespace) -> None:
    """``pagcp`` and ``pagcp-paper`` at the same budgets on the same pictures."""
    network = load_network(options.model)
    reference = dense_accuracy(options, network)["accuracy"]
    budgets = {task.name: options.budget for task in network.tasks}
    for method in ("pagcp", "pagcp-paper"):
        path = folder_of(options) / f"cost-{method}-{options.oracle}-{options.budget:g}.json"
        if path.is_file():
            continue
        cell = Cell(method, method == "pagcp", 1.0, 0)
        asked = PruneOptions(
            method=method,
            budgets=budgets,
            channel_multiple=options.multiple,
            compensate=cell.compensate,
        )
        began = time.monotonic()
        data = training_data(options, network, cell.seed, cell.labels)
        with Lines(tell).shown():
            result = prune(network, data, asked)
        after = accuracy(result.network, options.data)
        write_json(
            path,
            {
                "method": method,
                "macs": result.pruned.macs / result.dense.macs,
                "cost": result.rounds[0].spent.to_dict(),
                "seconds": time.monotonic() - began,
                "loss_ratio": dict(result.rounds[0].loss_ratio),
                "drops": drops(network, reference, after),
                "images": options.oracle,
                "budget": options.budget,
            },
        )


def speed_of(options: argparse.Namespace) -> None:
    """Measured speed-up of finished cells on both runtimes, dense and pruned in turns."""
    from bench_pruning import speed

    dense = load_network(options.model)
    for cell in cells(options):
        path = folder_of(options) / f"{cell.name}.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text("utf-8"))
        if "speed" in found:
            continue
        found["speed"] = speed(dense, load_network(path.with_suffix(".pt")))
        write_json(path, found)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["run", "time", "cost", "speed", "table"])
    parser.add_argument("--model", type=Path, help="dense checkpoint")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/training_free"), help="kept state")
    parser.add_argument("--output", type=Path, default=Path("docs/pruning.md"), help="for table")
    parser.add_argument("--methods", nargs="*", help="all quick ones by default")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4], help="of MACs to keep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--compensate", choices=["both", "yes", "no"], default="both")
    parser.add_argument("--bare", action="store_true", help="the search sees no labels")
    parser.add_argument("--latency", default="", help="target on which shares are of milliseconds")
    parser.add_argument("--multiple", type=int, default=8, help="widths are multiples of it")
    parser.add_argument("--oracle", type=int, default=96, help="held-out pictures")
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--budget", type=float, default=1.5, help="loss factor, for cost")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    if options.what == "run":
        for cell in cells(options):
            run_cell(options, cell)
    elif options.what == "time":
        for cell in cells(options):
            time_cell(options, cell)
    elif options.what == "cost":
        oracle_cost(options)
    elif options.what == "speed":
        speed_of(options)
    else:
        write_tables(options.work, options.output)
        tell(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    run_tool(main)
