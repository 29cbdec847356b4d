"""How well the price of pruning, milliseconds by widths, foretells the latency of cut networks.

    python tools/bench_latency_model.py make --target cpu
    python tools/bench_latency_model.py cuts --target cpu
    python tools/bench_latency_model.py table

``make`` measures the table of a network anew on one target and says how long that took; ``cuts``
times ten cuts that the table has not seen in turns with the dense network, in processes of their
own; ``table`` prints what both found. All of it is kept under ``--work``; a run that was killed
goes on where it was. Times are worth something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# With more threads than free processors spinning makes everything many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

from edgemtl import targets
from edgemtl.backends.processor import vector_floats
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.measure import Measurement, layer_table
from edgemtl.compress.latency.profiles import ProfileStore
from edgemtl.compress.latency.stand import Stand
from edgemtl.compress.latency.turns import RuntimeTurns
from edgemtl.compress.latency_model import backend_timer, describe
from edgemtl.errors import EdgemtlError
from edgemtl.files import write_json
from edgemtl.logs import Lines
from edgemtl.measure.results import InterleaveRule
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network

#: names of the runtimes in the table
RUNTIMES = {"cpu": "ORT", "intel-cpu": "OpenVINO"}
#: turns of each of the ten cuts, longer than a search takes
RULE = InterleaveRule(pairs=40, min_pairs=12, block_seconds=0.12, max_seconds=12.0)
#: the ten cuts: name -> kept share of a group's width, by its place in the network (0 first, 1
#: last) and a seeded draw in 0..1
ALLOCATIONS: dict[str, Callable[[float, float], float]] = {
    "all to 3/4": lambda place, draw: 0.75,
    "all to 1/2": lambda place, draw: 0.5,
    "all to 1/3": lambda place, draw: 0.33,
    "all to 1/5": lambda place, draw: 0.2,
    "first layers narrow": lambda place, draw: 0.25 + 0.65 * place,
    "last layers narrow": lambda place, draw: 0.9 - 0.65 * place,
    "first layers whole, last to 1/8": lambda place, draw: 1.0 - 0.875 * place,
    "half of the groups to 1/4": lambda place, draw: 1.0 if draw < 0.5 else 0.25,
    "any width": lambda place, draw: draw,
    "any width up to 1/2": lambda place, draw: draw / 2,
}


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def dense_network(path: Path) -> MultiTaskNetwork:
    """As pruning starts from it: with its family's exact folds applied."""
    network = load_network(path)
    fold: Callable[[], MultiTaskNetwork] | None = getattr(network, "folded", None)
    return (network if fold is None or network.pruning else fold()).eval()


def widths_of(
    groups: Sequence[ChannelGroup], multiple: int, name: str, seed: int
) -> dict[str, int]:
    """Widths of one of the ten cuts."""
    draw = random.Random(f"{seed} {name}")
    found = {}
    for number, group in enumerate(groups):
        place = number / max(len(groups) - 1, 1)
        share = ALLOCATIONS[name](place, draw.random())
        choices = snapped_widths(group, multiple)
        found[group.name] = min(choices, key=lambda width: abs(width - share * group.width))
    return found


def folder_of(options: argparse.Namespace) -> Path:
    """Where everything about this network on this target is kept."""
    folder: Path = options.work / options.model.stem / options.precision / options.target
    return folder


def make(options: argparse.Namespace) -> None:
    """Measure the table anew."""
    folder, target = folder_of(options), targets.load(options.target)
    stand = Stand(target, options.threads, options.precision)
    network = dense_network(options.model)
    multiple = options.multiple or target.channel_multiple
    if not options.resume:
        shutil.rmtree(folder / "profiles", ignore_errors=True)
    started = time.monotonic()
    turns = RuntimeTurns(stand)
    graph = turns.dense_graph(network)
    if graph is None:
        raise SystemExit(f"{target.backend} does not tell what its layers take")
    store = ProfileStore(folder / "profiles", stand.setting)
    table = layer_table(
        Measurement(
            network,
            channel_groups(network),
            graph,
            multiple,
            vector_floats(),
            target.name,
            turns,
            store,
        )
    )
    seconds = time.monotonic() - started
    tell(f"{seconds:.0f} s; {describe(table)}")
    path = folder / "table.json"
    if options.resume and path.is_file():  # measured before, only fitted again
        seconds = float(json.loads(path.read_text("utf-8"))["seconds"])
    write_json(path, {"seconds": seconds, "table": table.to_dict()})


def cuts(options: argparse.Namespace) -> None:
    """Time the ten cuts, each in turns with the dense network."""
    folder, target = folder_of(options), targets.load(options.target)
    path = folder / "cuts.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    stand = Stand(target, options.threads, options.precision)
    network = dense_network(options.model)
    groups = channel_groups(network)
    multiple = options.multiple or target.channel_multiple
    timer = backend_timer(stand, RULE)
    started = time.monotonic()
    for name in ALLOCATIONS:
        if name in found:
            continue
        if time.monotonic() - started > options.seconds:
            tell("the rest another time: call it again")
            return
        widths = widths_of(groups, multiple, name, options.seed)
        keep = {group.name: torch.arange(group.width) < widths[group.name] for group in groups}
        _, ratio, half = timer(cut(network, keep, groups), network)
        found[name] = {"widths": widths, "measured": ratio, "half": half}
        write_json(path, found)
        tell(f"{name}: {ratio:.3f} +- {half:.3f} of the dense latency")


def rows(options: argparse.Namespace) -> list[str]:
    """The table of all targets that were measured, as lines of Markdown."""
    lines = [
        "| cut | "
        + " | ".join(f"{name}: predicted | measured | off" for name in RUNTIMES.values())
        + " |"
    ]
    lines.append("|---" * (1 + 3 * len(RUNTIMES)) + "|")
    off: dict[str, list[float]] = {target: [] for target in RUNTIMES}
    found, made, tables = {}, {}, {}
    for target in RUNTIMES:
        folder = options.work / options.model.stem / options.precision / target
        found[target] = json.loads((folder / "cuts.json").read_text("utf-8"))
        made[target] = json.loads((folder / "table.json").read_text("utf-8"))
        tables[target] = LayerTable.from_dict(made[target]["table"])
    for name in ALLOCATIONS:
        cells = [name]
        for target, table in tables.items():
            one = found[target][name]
            predicted = table.predict_widths(one["widths"]) / table.dense_ms
            off[target].append(predicted / one["measured"] - 1)
            cells += [
                f"{predicted:.3f}",
                f"{one['measured']:.3f} ± {one['half']:.3f}",
                f"{off[target][-1]:+.1%}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for target, label in RUNTIMES.items():
        table, away = tables[target], np.abs(off[target])
        lines.append(
            f"- {label}: median {np.median(away):.1%}, worst {away.max():.1%}; table of "
            f"{table.cuts} cuts made in {made[target]['seconds']:.0f} s, dense "
            f"{table.dense_ms:.1f} ms, noise {table.noise:.1%}"
        )
    return lines


@Lines(tell).shown()
def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("make", "cuts", "table"))
    parser.add_argument("--model", type=Path, default=Path("examples/mos_m.pt"))
    parser.add_argument("--target", choices=tuple(RUNTIMES), default="cpu")
    parser.add_argument("--work", type=Path, default=Path("work/latency"))
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--multiple", type=int, help="of the widths; the target's by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="start no cut after so many")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a killed 'make', or fit again"
    )
    options = parser.parse_args()
    try:
        if options.what == "make":
            make(options)
        elif options.what == "cuts":
            cuts(options)
        else:
            print("\n".join(rows(options)))
    except EdgemtlError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
