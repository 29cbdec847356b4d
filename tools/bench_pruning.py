"""Prune, recover, measure: examples/mos_m_pruned.pt and the table in docs/pruning.md; resumable.

    python tools/bench_pruning.py make --model examples/mos_m.pt --output examples/mos_m_pruned.pt
    python tools/bench_pruning.py further --model examples/mos_m.pt --steps 400
    python tools/bench_pruning.py run --model examples/mos_m.pt --method l1-uniform
    python tools/bench_pruning.py cost --model examples/mos_m.pt --images 32
    python tools/bench_pruning.py measure --model examples/mos_m.pt --checkpoint CHECKPOINT
    python tools/bench_pruning.py table --model examples/mos_m.pt

The search and the recovery see training splits only; accuracy is measured on the validation splits.
Every method gets the same goal and the same recovery budget (``plan.json``, made by the first run).
All of it is kept under ``--work``; a run that was killed goes on where it was. Times are worth
something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

# With more threads than free processors spinning makes everything many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import cv2
import torch
from entry import run_tool

from edgemtl import targets
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.types import SessionOptions
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.prune import methods, prune, save_pruned
from edgemtl.compress.recover import RecoverOptions, Recovery, recover
from edgemtl.data.open import open_dataset
from edgemtl.exporting.network import export_network
from edgemtl.files import write_json, write_text
from edgemtl.logs import Lines
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.measure.latency import compare
from edgemtl.measure.results import StopRule
from edgemtl.measure.timed import bench_request
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, load, load_network, save, weights_hash

DATA_SETS = ("faces_crowd", "faces_landmarks")
#: (heading, data set, task, figure) of the columns of accuracy
FIGURES = (
    ("AP (crowd)", "faces_crowd", "detection", "ap_20px"),
    ("NME %", "faces_landmarks", "landmarks", "nme_percent"),
    ("pose MAE deg", "faces_landmarks", "pose", "mae_deg"),
)
RUNTIMES = {"cpu": "ORT", "intel-cpu": "OpenVINO"}
#: steps that are timed for the plan
TIMED_STEPS = 4
#: preparing pictures beside the training costs this factor
LOADING = 1.2
#: what stands from here on in docs/pruning.md is left as it is
BY_HAND = "\n## Reading it\n"


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def training_data(options: argparse.Namespace, oracle: int, calibration: int) -> DataSplits:
    """Slices of the training splits."""
    parts = [open_dataset(options.data / name, "train") for name in DATA_SETS]
    return DataSplits.split(parts, oracle, calibration, options.seed)


def recovery_options(options: argparse.Namespace, steps: int) -> RecoverOptions:
    """The recovery budget that all methods share."""
    return RecoverOptions(
        steps=steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        size=(options.side, options.side),
        evaluate_every=max(50, steps // 8),
        seed=options.seed,
    )


def plan(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Steps of recovery that fit into the minutes asked for; made once, then kept."""
    path = folder / "plan.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    if options.steps:
        seconds = None
        steps = int(options.steps)
    else:
        tell("timing a few recovery steps on a uniformly pruned network")
        network = load_network(options.model)
        data = training_data(options, 16, 16)
        aim = PruneOptions("l1-uniform", options.flops, options.params)
        pruned = prune(network, data, aim).network
        assert data.recovery is not None
        recovery = Recovery(
            pruned, network, data.recovery, data.oracle, recovery_options(options, 100)
        )
        seconds = recovery.seconds_per_step(TIMED_STEPS)
        steps = max(50, int(options.recovery_minutes * 60 / seconds / LOADING))
    made = {"steps": steps, "seconds_per_step": seconds, "batch": options.batch}
    write_json(path, made)
    return made


def work_folder(options: argparse.Namespace) -> Path:
    """Where everything about this model is kept."""
    folder: Path = options.work / options.model.stem
    return folder


def run_method(options: argparse.Namespace, method: str, rounds: int) -> Path:
    """Search, cut and recover; writes ``METHOD.pt`` and ``METHOD.json``."""
    folder = work_folder(options)
    output = folder / f"{method}.pt"
    if output.is_file():
        tell(f"{method} was finished before")
        return output
    steps = int(plan(options, folder)["steps"])
    per_step = plan(options, folder)["seconds_per_step"]
    if per_step is not None:
        tell(f"recovery: {steps} steps of {options.batch}, about {steps * per_step / 60:.0f} min")
    checkpoint = load(options.model)
    network = checkpoint.network()
    asked = PruneOptions(
        method=method,
        flops=options.flops,
        params=options.params,
        channel_multiple=options.multiple,
        rounds=rounds,
        seed=options.seed,
        recovery=recovery_options(options, steps),
    )
    data = training_data(options, options.oracle, options.calibration)
    started = time.monotonic()
    result = prune(network, data, asked, folder / "state")
    tell(f"{method}: {(time.monotonic() - started) / 60:.1f} min in this session")
    for note in result.notes:
        tell(f"note: {note}")
    write_json(folder / f"{method}.json", result.to_dict())
    meta: dict[str, Any] = {
        "pruned_from": options.model.name,
        "command": "python tools/bench_pruning.py " + " ".join(sys.argv[1:]),
    }
    if "pruning" in checkpoint.meta:
        meta["earlier"] = checkpoint.meta
    save_pruned(result, output, meta)
    return output


def accuracy(network: MultiTaskNetwork, data: Path) -> dict[str, Any]:
    """Every task on the validation splits."""
    found = {}
    for name in DATA_SETS:
        report = evaluate(
            network_runner(network),
            network.tasks,
            network.input_spec,
            open_dataset(data / name, "val"),
        )
        found[name] = report.to_dict()["tasks"]
    return found


def speed(dense: MultiTaskNetwork, pruned: MultiTaskNetwork) -> dict[str, Any]:
    """Speed-up on each runtime, one thread, the two in turns."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for target_name, label in RUNTIMES.items():
            target = targets.load(target_name)
            requests = []
            for kind, network in (("pruned", pruned), ("dense", dense)):
                folder = Path(name) / f"{target_name}-{kind}"
                folder.mkdir()
                graph = export_network(network, target, folder).path
                made = compile_for(target, graph, folder / "artefact")
                requests.append(bench_request(made, SessionOptions(), StopRule()))
            result = compare(requests[0], requests[1])
            found[label] = {
                "speedup": result.speedup.value,
                "low": result.speedup.low,
                "high": result.speedup.high,
                "stable": result.stable,
                "reason": result.reason,
                "pruned_ms": result.a.summary.p50_ms,
                "dense_ms": result.b.summary.p50_ms,
            }
            tell(f"{label}: x{result.speedup.value:.2f}")
    return found


def drops(dense: dict[str, Any], pruned: dict[str, Any], network: MultiTaskNetwork) -> Any:
    """Relative drop per figure; positive is worse."""
    found = {}
    for heading, data_set, task, figure in FIGURES:
        before, after = dense[data_set][task][figure], pruned[data_set][task][figure]
        if before is None or after is None:
            continue
        found[heading] = network.task(task).primary.relative_drop(before, after)
    return found


def measure(options: argparse.Namespace, checkpoint: Path, name: str) -> dict[str, Any]:
    """Accuracy and speed of a pruned checkpoint against the dense one; kept as JSON."""
    folder = work_folder(options)
    dense, pruned = load_network(options.model), load_network(checkpoint)
    dense_path = folder / "dense.accuracy.json"
    if not dense_path.is_file():
        tell("measuring the dense network on the validation splits")
        write_json(dense_path, accuracy(dense, options.data))
    reference = json.loads(dense_path.read_text("utf-8"))
    path = folder / f"{name}.measured.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if found.get("weights") != weights_hash(pruned):
        found = {"weights": weights_hash(pruned)}
    if "accuracy" not in found:
        tell(f"measuring {name} on the validation splits")
        found["accuracy"] = accuracy(pruned, options.data)
        found["drops"] = drops(reference, found["accuracy"], dense)
        write_json(path, found)
    if "speed" not in found and not options.no_speed:
        found["speed"] = speed(dense, pruned)
        write_json(path, found)
    for heading, drop in found["drops"].items():
        tell(f"{heading}: {100 * drop:+.2f} % relative")
    return found


def make(options: argparse.Namespace) -> None:
    """The example checkpoint, from search to measurement."""
    started = time.monotonic()
    made = run_method(options, "pagcp", options.rounds)
    data = made.read_bytes()
    from edgemtl.files import write_atomically

    write_atomically(options.output, lambda stream: stream.write(data))
    tell(f"wrote {options.output} after {(time.monotonic() - started) / 60:.1f} min")
    measure(options, options.output, options.output.stem)


def further(options: argparse.Namespace) -> None:
    """Train ``--output``, which was pruned from ``--model``, for ``--steps`` more; resumable."""
    dense, checkpoint = load_network(options.model), load(options.output)
    network = checkpoint.network()
    data = training_data(options, options.oracle, options.calibration)
    assert data.recovery is not None
    state = work_folder(options) / f"further-{weights_hash(network)[:12]}.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    earlier = checkpoint.meta.get("further", [])
    # Other pictures than the training before drew, from the same slices.
    asked = replace(recovery_options(options, options.steps), seed=options.seed + 1 + len(earlier))
    result = recover(network, dense, data.recovery, data.oracle, asked, state)
    trained = {
        "command": "python tools/bench_pruning.py " + " ".join(sys.argv[1:]),
        "recovery": result.to_dict(),
    }
    save(from_network(network, {**checkpoint.meta, "further": [*earlier, trained]}), options.output)
    tell(f"wrote {options.output}: best of step {result.best_step}")


def oracle_cost(options: argparse.Namespace) -> None:
    """What pagcp and pagcp-paper spend at the same budgets, and where they get; no recovery."""
    folder = work_folder(options)
    network = load_network(options.model)
    budgets = {task.name: options.budget for task in network.tasks}
    for method in ("pagcp", "pagcp-paper"):
        path = folder / f"cost-{method}-{options.images}-{options.budget:g}.json"
        if path.is_file():
            continue
        asked = PruneOptions(
            method=method, budgets=budgets, channel_multiple=options.multiple, seed=options.seed
        )
        data = training_data(options, options.images, options.calibration)
        result = prune(network, data, asked, folder / "state")
        write_json(path, result.to_dict())
        spent = result.rounds[0].spent
        tell(
            f"{method}: {spent.macs / 1e12:.2f} TMAC, {spent.seconds:.0f} s, "
            f"{100 * result.pruned.macs / result.dense.macs:.1f} % of MACs left"
        )


def table(options: argparse.Namespace) -> None:
    """Write docs/pruning.md from what was measured; what is written by hand stays."""
    folder = work_folder(options)
    reference = json.loads((folder / "dense.accuracy.json").read_text("utf-8"))
    head = ["method", "MACs left", "params left", *(f[0] for f in FIGURES), "worst drop"]
    head += [*RUNTIMES.values(), "oracle TMAC", "search s"]
    rows = [["dense", "100 %", "100 %", *(_figure(reference, f) for f in FIGURES), "", *[""] * 4]]
    example = Path("examples") / f"{options.model.stem}_pruned.pt"
    places = {name: folder / f"{name}.pt" for name in methods()} | {f"`{example}`": example}
    for name, place in places.items():
        path = folder / f"{place.stem}.measured.json"
        if not (place.is_file() and path.is_file()):
            continue
        prunings = history(load(place).meta)
        first, last = prunings[0]["dense"], prunings[-1]["pruned"]
        found = json.loads(path.read_text("utf-8"))
        worst = max(found["drops"], key=lambda key: found["drops"][key])
        rounds = [one for pruning in prunings for one in pruning["rounds"]]
        spent = [one["spent"]["macs"] / 1e12 for one in rounds]
        seconds = [one["search_seconds"] for one in rounds]
        speeds = [_speed(found.get("speed", {}).get(label)) for label in RUNTIMES.values()]
        rows.append(
            [
                name,
                f"{100 * last['macs'] / first['macs']:.1f} %",
                f"{100 * last['params'] / first['params']:.1f} %",
                *(_figure(found["accuracy"], figure) for figure in FIGURES),
                f"{100 * found['drops'][worst]:+.2f} % ({worst})",
                *speeds,
                f"{math.fsum(spent):.2f}",
                f"{math.fsum(seconds):.0f}",
            ]
        )
    made = json.loads((folder / "plan.json").read_text("utf-8"))
    lines = [
        "# Pruning, measured",
        "",
        f"`{options.model.name}`. The search and the recovery used the training splits; accuracy "
        "is on the validation splits of `faces_crowd` and `faces_landmarks`. Every method had the "
        f"goal of {100 * options.flops:.0f} % of the multiply-accumulates and the same recovery: "
        f"{made['steps']} steps of {made['batch']} pictures with distillation. `{example}` was "
        "pruned twice and trained for longer. The speed-up is with one thread, dense and pruned "
        "network in turns, with the 95 % interval in brackets. A drop is relative to the dense "
        'network; positive is worse. "Search" is the time to find the widths; "oracle" is what its '
        "trials computed.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *_cost_lines(folder),
        "`python tools/bench_pruning.py run`, `measure`, `cost` and `table` made both tables; each "
        "takes `--model`.",
        "",
    ]
    words = options.output.read_text("utf-8") if options.output.is_file() else ""
    by_hand = words[words.index(BY_HAND) :] if BY_HAND in words else ""
    write_text(options.output, "\n".join(lines) + by_hand)
    tell(f"wrote {options.output}")


def history(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What pruned a checkpoint, the first time first."""
    before = history(meta["earlier"]) if "earlier" in meta else []
    return [*before, meta["pruning"]]


def _cost_lines(folder: Path) -> list[str]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("cost-*.json")):
        result = json.loads(path.read_text("utf-8"))
        found.setdefault(path.stem.split(result["method"], 1)[1], []).append(result)
    lines = []
    for setting, results in found.items():
        _, images, budget = setting.split("-")
        lines += [
            f"Oracle cost at the same budgets (every loss at most {budget} times the dense one), "
            f"on {images} held-out pictures, without recovery:",
            "",
            "| method | oracle TMAC | s | MACs left | worst loss ratio |",
            "|---|---|---|---|---|",
        ]
        for result in results:
            one = result["rounds"][0]
            ratio = max(one["loss_ratio"].values())
            share = 100 * result["pruned"]["macs"] / result["dense"]["macs"]
            lines.append(
                f"| {result['method']} | {one['spent']['macs'] / 1e12:.2f} | "
                f"{one['spent']['seconds']:.0f} | {share:.1f} % | {ratio:.3f} |"
            )
        lines.append("")
    return lines


def _figure(found: dict[str, Any], figure: tuple[str, str, str, str]) -> str:
    value = found[figure[1]][figure[2]][figure[3]]
    return "not measured" if value is None else f"{value:.3f}"


def _speed(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    text = f"x{found['speedup']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
    return text if found["stable"] else f"{text}, unstable"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["make", "further", "run", "measure", "cost", "table"])
    parser.add_argument("--model", type=Path, required=True, help="dense checkpoint")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/pruning"), help="kept state")
    parser.add_argument("--output", type=Path, help="checkpoint (make) or table (table) to write")
    parser.add_argument("--method", default="pagcp", help="for run")
    parser.add_argument("--checkpoint", type=Path, help="for measure; METHOD.pt by default")
    parser.add_argument("--flops", type=float, default=0.4, help="kept share")
    parser.add_argument("--params", type=float, default=0.4, help="kept share")
    parser.add_argument("--multiple", type=int, default=8, help="widths are multiples of it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--oracle", type=int, default=96, help="held-out pictures")
    parser.add_argument("--calibration", type=int, default=48)
    parser.add_argument("--recovery-minutes", type=float, default=28.0)
    parser.add_argument("--steps", type=int, default=0, help="of recovery, instead of minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=256, help="training picture side in pixels")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=32, help="held-out pictures, for cost")
    parser.add_argument("--budget", type=float, default=1.5, help="loss factor, for cost")
    parser.add_argument("--no-speed", action="store_true", help="measure accuracy only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@Lines(tell).shown()
def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    if options.what in ("make", "further"):
        options.output = options.output or Path("examples") / f"{options.model.stem}_pruned.pt"
        make(options) if options.what == "make" else further(options)
    elif options.what == "run":
        measure(options, run_method(options, options.method, options.rounds), options.method)
    elif options.what == "measure":
        checkpoint = options.checkpoint or work_folder(options) / f"{options.method}.pt"
        measure(options, checkpoint, checkpoint.stem)
    elif options.what == "cost":
        oracle_cost(options)
    else:
        options.output = options.output or Path("docs/pruning.md")
        table(options)
    return 0


if __name__ == "__main__":
    run_tool(main)
