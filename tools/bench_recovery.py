"""Prune, recover for so many steps, measure: the tables with training of docs/pruning.md; resumable.

    python tools/bench_recovery.py run --model examples/mos_m.pt --methods pagcp unanimous taylor-global --shares 0.4 0.2 --steps 80
    python tools/bench_recovery.py run --model examples/mos_m.pt --methods pagcp unanimous --shares 0.4 --steps 80 --seeds 0 1 2
    python tools/bench_recovery.py run --model examples/mos_m.pt --methods pagcp unanimous --shares 0.2 --steps 300
    python tools/bench_recovery.py run --model examples/mos_m.pt --methods pagcp --shares 0.2 --steps 300 --rounds 2
    python tools/bench_recovery.py dense --model examples/mos_m.pt --steps 80 300
    python tools/bench_recovery.py table --model examples/mos_m.pt

A cell is a method at a share of the dense network's work with a number of steps. All take all their
steps with all parameters (``--train`` says otherwise). ``dense`` gives the dense network the same
steps, the same trial of rates and the same choice of its best look, step 0 included: a network that
was not trained to its end gets better by training alone. Training and searches see training splits
only; the validation splits are looked at when a cell is done, and choose nothing. Every cell is kept
under ``--work`` and is not done twice; a killed one goes on from its last saved step.
"""

# ruff: noqa: E501 - commands are shown on one line

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# With more threads than free processors spinning makes everything many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_training_free import (
    SETS,
    accuracy,
    dense_accuracy,
    drops,
    folder_of,
    tell,
    training_data,
)
from entry import run_tool
from pruning.tables import figures_of, markdown, title_of, value_of, worst_drop

from edgemtl.compress.context import PruneOptions
from edgemtl.compress.prune import prune, save_pruned
from edgemtl.compress.recover import RecoverOptions, recover
from edgemtl.files import write_json
from edgemtl.logs import Lines
from edgemtl.models.checkpoint import from_network, load_network, save

#: looks at the held-out pictures during a training, and steps between them at least
LOOKS, FEWEST_STEPS = 8, 20


@dataclass(frozen=True)
class Cell:
    """One trained network.

    Attributes:
        method: that pruned it; ``dense`` for the dense network itself.
        share: of the multiply-accumulates to keep.
        steps: of training.
        seed: of everything random, the choice of pictures included.
        rounds: of pruning and training; the steps are shared out.
        train: what is trained.
        labels: whether search and training see labels.
    """

    method: str
    share: float
    steps: int
    seed: int
    rounds: int = 1
    train: str = "all"
    labels: bool = True

    @property
    def name(self) -> str:
        """Of its files."""
        parts = ["trained", self.method, f"{self.share:g}", str(self.steps), str(self.seed)]
        parts += [f"rounds{self.rounds}"] if self.rounds > 1 else []
        parts += [self.train] if self.train != "all" else []
        parts += [] if self.labels else ["bare"]
        return "-".join(parts)


def recovery_of(options: argparse.Namespace, cell: Cell) -> RecoverOptions:
    """How a cell is trained."""
    return RecoverOptions(
        steps=cell.steps,
        batch=options.batch,
        learning_rate=options.rate,
        size=None if options.side is None else (options.side, options.side),
        evaluate_every=max(FEWEST_STEPS, cell.steps // LOOKS),
        seed=cell.seed,
        train=cell.train,  # type: ignore[arg-type] - argparse has checked it
    )


def run_cell(options: argparse.Namespace, cell: Cell) -> None:
    """Prune (but for the dense row), train, measure, keep."""
    place = folder_of(options)
    path = place / f"{cell.name}.json"
    if path.is_file():
        return
    network = load_network(options.model)
    reference = dense_accuracy(options, network)["accuracy"]
    data = training_data(options, network, cell.seed, cell.labels)
    recovery, started = recovery_of(options, cell), time.monotonic()
    found: dict[str, Any] = {"cell": cell.__dict__, "macs": 1.0, "params": 1.0}
    with Lines(lambda line: tell(f"  {line}")).shown():
        if cell.method == "dense":
            assert data.recovery is not None
            trained = copy.deepcopy(network).requires_grad_(True)
            state = place / f"{cell.name}.state.pt"
            result = recover(trained, network, data.recovery, data.oracle, recovery, state)
            save(
                from_network(trained, {"trained_from": options.model.name}), path.with_suffix(".pt")
            )
            state.unlink(missing_ok=True)
            found["recovery"] = [result.to_dict()]
        else:
            asked = PruneOptions(
                method=cell.method,
                flops=cell.share,
                channel_multiple=options.multiple,
                seed=cell.seed,
                rounds=cell.rounds,
                recovery=recovery,
            )
            pruned = prune(network, data, asked, place / "state")
            trained = pruned.network
            save_pruned(pruned, path.with_suffix(".pt"), {"pruned_from": options.model.name})
            found["macs"] = pruned.pruned.macs / pruned.dense.macs
            found["params"] = pruned.pruned.params / pruned.dense.params
            found["recovery"] = [r.recovery.to_dict() for r in pruned.rounds if r.recovery]
            found["search_seconds"] = sum(one.search_seconds for one in pruned.rounds)
            found["notes"] = list(pruned.notes)
    found["accuracy"] = accuracy(trained, options.data)
    found["drops"] = drops(network, reference, found["accuracy"])
    found["seconds"] = time.monotonic() - started
    found["threads"] = options.threads
    write_json(path, found)
    tell(f"{cell.name}: worst {worst_drop(found)}")


def table_of(options: argparse.Namespace) -> str:
    """What is kept, as a table in Markdown; drops are held against the dense network as it came."""
    network = load_network(options.model)
    reference = dense_accuracy(options, network)
    tasks = [task.name for task in network.tasks if task.name in SETS]
    titles = [title_of(name, *reference["figures"][name]) for name in tasks]
    head = ["method", "steps", "seed", "MACs left", "params left", *titles, "worst drop"]
    head += ["kept step", "rates", "s"]
    dense = [value_of(reference["accuracy"][task]) for task in tasks]
    rows = [["dense, as it came", "0", "", "100 %", "100 %", *dense, "", "", "", ""]]
    kept = [
        json.loads(path.read_text("utf-8"))
        for path in sorted(folder_of(options).glob("trained-*.json"))
    ]
    kept.sort(
        key=lambda one: (
            -one["cell"]["share"],
            one["cell"]["steps"],
            one["cell"]["method"],
            one["cell"]["seed"],
        )
    )
    for one in kept:
        cell = one["cell"]
        stages = [stage for part in one["recovery"] for stage in part["stages"]]
        how = [cell["method"]]
        how += [f"{cell['rounds']} rounds"] if cell["rounds"] > 1 else []
        how += [cell["train"]] if cell["train"] != "all" else []
        how += [] if cell["labels"] else ["no labels"]
        rows.append(
            [
                ", ".join(how),
                str(cell["steps"]),
                str(cell["seed"]),
                *figures_of(one, tasks),
                ", ".join(str(part["best_step"]) for part in one["recovery"]),
                ", ".join(f"{stage['rate'] or 0:.1e}" for stage in stages),
                f"{one['seconds']:.0f}",
            ]
        )
    return "\n".join(markdown(head, rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["run", "dense", "table"])
    parser.add_argument("--model", type=Path, required=True, help="dense checkpoint")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/recovery"), help="kept state")
    parser.add_argument("--methods", nargs="+", default=["pagcp"])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4], help="of MACs to keep")
    parser.add_argument("--steps", type=int, nargs="+", default=[80])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train", choices=["all", "norms", "auto"], default="all")
    parser.add_argument(
        "--bare", action="store_true", help="neither search nor training sees labels"
    )
    parser.add_argument("--rate", type=float, help="learning rate; found by a trial by default")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--side", type=int, help="training canvas in pixels; the network's by default"
    )
    parser.add_argument("--multiple", type=int, default=8, help="widths are multiples of it")
    parser.add_argument("--oracle", type=int, default=96, help="held-out pictures")
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    if options.what == "table":
        print(table_of(options))
        return 0
    given = itertools.product(options.shares, options.steps, options.methods, options.seeds)
    for share, steps, method, seed in given:
        cell = Cell(method, share, steps, seed, options.rounds, options.train, not options.bare)
        if options.what == "dense":
            cell = replace(cell, method="dense", share=1.0, rounds=1)
        run_cell(options, cell)
    return 0


if __name__ == "__main__":
    run_tool(main)
