"""Measure M3ViT where it runs: experts against dense, one task against all, a change of task.

    python tools/bench_m3vit.py layer              # a layer of 16 experts, 4 used, two runtimes
    python tools/bench_m3vit.py network            # the published small NYUD network
    python tools/bench_m3vit.py macs               # multiply-accumulates and published baselines
    python tools/bench_m3vit.py switch             # task to task in one artefact of m3vit_t
    python tools/bench_m3vit.py targets            # m3vit_t_pruned compiled, against m3vit_t

Times are medians of one thread's processor time, the variants taking turns in blocks. On a machine
that does nothing else that is the time that passes; what else a machine does stretches it less than
the clock, and its ratios least. Weights of ``layer`` and ``network`` are random: the published
training is not available, and a time depends on them only through how evenly tokens spread over the
experts.
``--graphs DIR`` keeps the exported graphs; ``--rounds 0`` makes and checks them and times nothing.
``targets`` times nothing: it compiles by ``edgemtl compile`` and compares what came out with the
uncompressed network on the same pictures, work and accuracy.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import run_tool
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.taskfiles import TaskSessions, with_task_files
from edgemtl.backends.types import SessionOptions
from edgemtl.data.concat import concatenate, thinned
from edgemtl.data.open import open_dataset
from edgemtl.exporting.experts import unstack_weights, written_experts
from edgemtl.exporting.module_cost import module_costs
from edgemtl.exporting.network import export_alone
from edgemtl.exporting.simplify import simplify
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.measure.machine import machine_facts
from edgemtl.models.checkpoint import load_network
from edgemtl.models.m3vit.experts import Experts, Lowering
from edgemtl.models.m3vit.gates import Gate, NoiseSource
from edgemtl.models.m3vit.network import M3ViT

Run = Callable[[NDArray[np.float32]], Any]
ONE_THREAD = SessionOptions(threads=1)
DATA, SETS = Path("../shared/data"), ("people_parts", "indoor_rgbd")
NYUD = [
    {"name": "semseg", "kind": "segmentation", "options": {"classes": [str(i) for i in range(40)]}},
    {"name": "depth", "kind": "depth"},
]
PASCAL = [
    {"name": "semseg", "kind": "segmentation", "options": {"classes": [str(i) for i in range(21)]}},
    {"name": "human_parts", "kind": "parts", "options": {"classes": [str(i) for i in range(7)]}},
    {"name": "sal", "kind": "saliency"},
    {"name": "normals", "kind": "normals"},
    {"name": "edge", "kind": "edges"},
]
#: GMACs of dense multi-task networks as published (M3ViT, tables 1 and 2)
BASELINES = {
    "NYUD-v2": {"Cross-Stitch": 310, "NDDR": 340, "MTL ResNet-50": 192},
    "PASCAL-Context": {"Cross-Stitch": 647, "NDDR": 747, "MTL ResNet-18": 167},
}


class Layer(nn.Module):
    """A gate and its experts, as in a block."""

    def __init__(self, dim: int, hidden: int, experts: int, top_k: int, lowering: Lowering) -> None:
        super().__init__()
        self.gate = Gate(dim, experts, top_k, "vmoe", 0.0, NoiseSource())
        self.experts = Experts(experts, dim, hidden, lowering)

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, dim) -> (T, dim)."""
        answers: Tensor = self.experts([tokens], [self.gate(tokens)])[0][0]
        return answers


def layer_graph(layer: nn.Module, tokens: Tensor, path: Path) -> None:
    """Write a layer by the product's own lowerings, simplified."""
    import onnx

    buffer = io.BytesIO()
    with written_experts(17), torch.no_grad():
        torch.onnx.export(
            layer.eval(), (tokens,), buffer, input_names=["images"], opset_version=17, dynamo=False
        )
    model = onnx.load_from_string(buffer.getvalue())
    unstack_weights(model)
    raw = path.with_suffix(".raw.onnx")
    onnx.save(model, raw)
    simplify(raw, path)


def runner(path: Path, runtime: str) -> Run:
    """A graph of one input and one output in a runtime, with one thread and in float32."""
    if runtime == "openvino":
        from edgemtl.backends.openvino import import_openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
        }
        request = (
            import_openvino()
            .Core()
            .compile_model(str(path), "CPU", settings)
            .create_infer_request()
        )
        return lambda x: request.infer([x], share_inputs=True)[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x})[0]


@dataclass(frozen=True)
class Timed:
    """What taking turns gave.

    Attributes:
        ms: median of each variant.
        speedup: of each over the first: median over rounds of the ratio of a round's medians. What
            slows the machine for a while slows a whole round, and leaves the ratio alone.
        spread: half the distance between the quartiles of that ratio.
    """

    ms: dict[str, float]
    speedup: dict[str, float]
    spread: dict[str, float]


def in_turns(runs: Mapping[str, Callable[[int], Any]], rounds: int, block: int) -> Timed:
    """Blocks of runs take turns, the first of a block not counted."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for round_ in range(rounds):
        for name, run in runs.items():
            run(round_ * block)
            taken = []
            for index in range(block):
                began = time.process_time()
                run(round_ * block + index)
                taken.append((time.process_time() - began) * 1e3)
            times[name].append(taken)
    middle = {name: np.median(np.array(each), axis=1) for name, each in times.items()}
    first = next(iter(middle.values()))
    ratios = {name: first / each for name, each in middle.items()}
    quartiles = {name: np.percentile(each, (25, 75)) for name, each in ratios.items()}
    return Timed(
        {name: float(np.median(np.array(each))) for name, each in times.items()},
        {name: float(np.median(each)) for name, each in ratios.items()},
        {name: float(high - low) / 2 for name, (low, high) in quartiles.items()},
    )


def machine() -> str:
    """The line above a table."""
    facts = machine_facts()
    able = torch.backends.cpu.get_cpu_capability()
    return f"{facts.cpu}, {able}, load {facts.load_1min}"


def bench_layer(options: argparse.Namespace) -> None:
    """Dense against the lowerings; every picture is another input, so queues differ in length."""
    experts, top_k, dim = 16, 4, 384
    print(machine())
    print(f"{experts} experts, {top_k} used, {dim} wide; theory {experts / top_k:.1f}x")
    print("| runtime | tokens | expert width | dense ms | gather | sorted | static |")
    print("|---|---|---|---|---|---|---|")
    for runtime in options.runtimes:
        for tokens in (196, 784):
            for hidden in options.widths:
                torch.manual_seed(0)
                layer = Layer(dim, hidden, experts, top_k, "dense")
                rng = np.random.default_rng(0)
                inputs = rng.standard_normal((12, tokens, dim)).astype(np.float32)
                print(_layer_row(runtime, layer, inputs, options), flush=True)


def _layer_row(
    runtime: str, layer: Layer, inputs: NDArray[np.float32], options: argparse.Namespace
) -> str:
    tokens, hidden = inputs.shape[1], layer.experts.weight_in.shape[1]
    sizes = []
    with torch.no_grad():
        for x in inputs:
            chosen = layer.gate(torch.from_numpy(x)).experts.flatten()
            sizes.append(int(chosen.bincount(minlength=layer.experts.choices).max()))
    runs: dict[str, Callable[[int], Any]] = {}
    lowerings: tuple[Lowering, ...] = ("dense", "gather", "sorted", "static")
    for lowering in lowerings:
        layer.experts.lowering = lowering
        layer.experts.capacity = -(-max(sizes) // 8) * 8
        path = options.graphs / f"layer-{tokens}-{hidden}-{lowering}.onnx"
        if not path.exists():
            layer_graph(layer, torch.from_numpy(inputs[0]), path)
        run = runner(path, runtime)
        runs[lowering] = lambda i, run=run: run(inputs[i % len(inputs)])
    for i in range(len(inputs)):
        wanted = np.array(runs["dense"](i))
        for name, run_at in runs.items():
            error = np.abs(np.array(run_at(i)) - wanted).max() / np.abs(wanted).max()
            if error > 1e-5:
                raise SystemExit(f"{name} differs from dense by {error:.1e}")
    if not options.rounds:
        return f"{runtime} {tokens} {hidden}: all agree within 1e-5"
    found = in_turns(runs, options.rounds, 6)
    cells = [
        f"{found.ms[name]:.2f} ms, {found.speedup[name]:.2f}x (+-{found.spread[name]:.2f})"
        for name in list(runs)[1:]
    ]
    dense = found.ms["dense"]
    return f"| {runtime} | {tokens} | {hidden} | {dense:.1f} | " + " | ".join(cells) + " |"


def bench_network(options: argparse.Namespace) -> None:
    """The published small NYUD network, one task against both, each from scratch and sharing."""
    torch.manual_seed(0)
    network = M3ViT(NYUD, variant="small", size=(480, 640)).eval()
    images = np.random.default_rng(0).standard_normal((1, 3, 480, 640)).astype(np.float32)
    runs: dict[str, Callable[[int], Any]] = {}
    for label, tasks in (("semseg", ["semseg"]), ("depth", ["depth"]), ("both", None)):
        path = options.graphs / f"nyud-{label}.onnx"
        if not path.exists():
            export_alone(network, targets.load("cpu"), path, tasks)
        if options.rounds:
            run = runner(path, "onnxruntime")
            runs[label] = lambda i, run=run: run(images)
    if not options.rounds:
        return
    found = in_turns(runs, options.rounds, 1).ms
    print(machine())
    naive = found["semseg"] + found["depth"]
    print("small NYUD-v2 network, 480x640, onnxruntime, one thread")
    print("| what | ms | against all tasks, each from scratch |")
    print("|---|---|---|")
    rows = {
        "semseg alone": found["semseg"],
        "depth alone": found["depth"],
        "both, sharing what precedes the first gate": found["both"],
        "both, each from scratch": naive,
    }
    for label, value in rows.items():
        print(f"| {label} | {value:.0f} | {naive / value:.2f}x faster |")


def count_macs(_: argparse.Namespace) -> None:
    """Multiply-accumulates of the published networks."""
    print("| network | one task | all, sharing | all, from scratch | baseline | one task saves |")
    print("|---|---|---|---|---|---|")
    for data, tasks, size in (
        ("NYUD-v2", NYUD, (480, 640)),
        ("PASCAL-Context", PASCAL, (512, 512)),
    ):
        with torch.device("meta"):
            network = M3ViT(tasks, variant="small", size=size)
        cost = module_costs(network)
        single = {name: c.macs / 1e9 for name, c in cost.tasks.items()}
        naive, largest = sum(single.values()), max(single.values())
        published = "; ".join(f"{n} {g} G" for n, g in BASELINES[data].items())
        saved = ", ".join(
            f"{1 - largest / g:.1%} against {n}"
            for n, g in [
                ("all tasks from scratch", naive),
                *BASELINES[data].items(),
            ]
        )
        print(
            f"| small {data} | {min(single.values()):.2f} to {largest:.2f} G | "
            f"{cost.macs / 1e9:.1f} G | {naive:.1f} G | {published} | {saved} |"
        )


def bench_switch(options: argparse.Namespace) -> None:
    """In one artefact: a task after itself against the same task after another."""
    network = load_network(options.model)
    assert isinstance(network, M3ViT)
    cpu = targets.load("cpu")
    images = network.example_input().numpy()
    names = [task.name for task in network.tasks]
    graph = options.graphs / f"{options.model.stem}.onnx"
    if not graph.exists():
        export_alone(network, cpu, graph)
    if not options.rounds:
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        artefact = compile_for(cpu, graph, place)
        whole = registry.get(cpu.backend).load(artefact, ONE_THREAD)
        one_file = graph.stat().st_size
        everything = _median(lambda: whole.run(images), options.rounds * 4)
        whole.close()
        split = with_task_files(artefact, {task.name: task.outputs for task in network.tasks})
        size = sum((place / file).stat().st_size for file in split.files)
        began = time.perf_counter()
        sessions = TaskSessions(split, options=ONE_THREAD)
        loading = (time.perf_counter() - began) * 1e3
        same, switched = _switched(sessions, names, images, options.rounds)
        sessions.close()
    print(machine())
    print(
        f"{options.model.name}: one file {one_file / 1e6:.2f} MB, with a graph per task "
        f"{size / 1e6:.2f} MB; loading all sessions once {loading:.0f} ms"
    )
    print(f"all tasks in one graph {everything:.2f} ms")
    print("| task | after itself ms | after another ms | the switch costs |")
    print("|---|---|---|---|")
    for task in names:
        extra = switched[task] / same[task] - 1
        print(f"| {task} | {same[task]:.3f} | {switched[task]:.3f} | {extra:+.2%} |")
    total = sum(switched.values()) / sum(same.values()) - 1
    print(f"| all | {sum(same.values()):.3f} | {sum(switched.values()):.3f} | {total:+.2%} |")


def _median(run: Callable[[], Any], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.process_time()
        run()
        times.append((time.process_time() - began) * 1e3)
    return float(np.median(times))


def _switched(
    sessions: TaskSessions, names: Sequence[str], images: NDArray[np.float32], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median ms per task when it ran last, and when another did; the two take turns."""
    same: dict[str, list[float]] = {name: [] for name in names}
    switched: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(3):
            sessions.run(name, images)
    for round_ in range(rounds):
        # Another step through the tasks each time, so that every task follows every other.
        step = 1 + round_ % (len(names) - 1) if len(names) > 1 else 1
        for index in range(len(names)):
            name = names[index * step % len(names)]
            for times in (switched[name], same[name], same[name]):
                began = time.process_time()
                sessions.run(name, images)
                times.append((time.process_time() - began) * 1e3)
    return (
        {name: float(np.median(values)) for name, values in same.items()},
        {name: float(np.median(values)) for name, values in switched.items()},
    )


#: target -> val pictures it is judged on (all: None): code for other processors is emulated, and
#: that takes seconds per picture
TARGETS: dict[str, int | None] = {
    "cpu": None,
    "intel-cpu": None,
    "jetson": None,
    "rpi4": 4,
    "zcu104": 40,
}


def compile_for_targets(options: argparse.Namespace) -> None:
    """Compile a pruned network for each target; its work and accuracy against the uncompressed."""
    dense, pruned = load_network(options.against), load_network(options.model)
    before, after = module_costs(dense), module_costs(pruned)
    naive = sum(cost.macs for cost in before.tasks.values())
    print(
        f"{options.against.name}: {before.macs / 1e6:.0f} M MACs for all tasks, "
        f"{naive / 1e6:.0f} M for each from scratch, "
        f"{max(c.macs for c in before.tasks.values()) / 1e6:.0f} M for one"
    )
    print(
        f"{options.model.name}: {after.macs / 1e6:.0f} M ({after.macs / before.macs:.1%}) for all, "
        f"{max(c.macs for c in after.tasks.values()) / 1e6:.0f} M for one"
    )
    names = [task.name for task in dense.tasks if not options.task or task.name in options.task]
    print("| target | exit | pictures | layers | M MACs | of all | " + " | ".join(names) + " |")
    print("|" + "---|" * (6 + len(names)))
    for target in options.targets:
        print(_compiled_row(target, dense, before.macs, names, options), flush=True)


def _compiled_row(
    target: str, dense: Any, all_macs: int, names: Sequence[str], options: argparse.Namespace
) -> str:
    limit = TARGETS[target] if options.limit is None else options.limit
    folder = options.runs / "-".join([options.model.stem, target, *options.task])
    command = [str(Path(sys.executable).with_name("edgemtl")), "compile", str(options.model)]
    command += ["--no-prune", f"--target={target}", f"--output={folder}"]
    # No times are asked, so no gate on them may fail; those on accuracy and cost stay.
    command += ["--set=bench.enabled=false", '--set=gates.allow_not_measured=["latency"]']
    command += [f"--task={name}" for name in options.task]
    command += [f"--data={place}" for place in options.data]
    command += [] if limit is None else [f"--set=data.limit={limit}"]
    command += [f"--set={assignment}" for assignment in options.set]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (options.runs / f"{folder.name}.log").write_text(done.stdout + done.stderr)
    stopped = f"| {target} | {done.returncode} | {done.stderr.strip().splitlines()[-1:]} |"
    if not (folder / "accuracy.json").is_file():
        return stopped
    found = json.loads((folder / "accuracy.json").read_text())["artefact"]["tasks"]
    macs = json.loads((folder / "cost.json").read_text())["artefact"]["macs"]
    record = folder / "quantize.json"
    lower = ""
    if record.is_file():
        quantised = json.loads(record.read_text())
        kept = len((quantised["result"] or {}).get("kept", {}))
        every = len(quantised["layers"]) + kept
        lower = f"{quantised['precision']}, {len(quantised['layers'])} of {every}"
    images = thinned(concatenate([open_dataset(place, "val") for place in options.data]), limit)
    wanted = evaluate(network_runner(dense, names), dense.selected(names), dense.input_spec, images)
    cells = []
    for task in dense.selected(names):
        key = task.primary.key
        old, new = wanted.tasks[task.name].values[key], found[task.name][key]
        drop = None if old is None or new is None else task.primary.relative_drop(old, new)
        cells.append("not measured" if drop is None else f"{old:.3f} to {new:.3f}, {-drop:+.1%}")
    row = [target, done.returncode, len(images), lower, f"{macs / 1e6:.0f}"]
    row += [f"{macs / all_macs:.1%}", *cells]
    return "| " + " | ".join(map(str, row)) + " |"


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "layer": bench_layer,
    "network": bench_network,
    "macs": count_macs,
    "switch": bench_switch,
    "targets": compile_for_targets,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=list(PARTS))
    parser.add_argument("--model", type=Path, help="of switch and targets")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--widths", nargs="+", type=int, default=[384], help="inside an expert")
    parser.add_argument("--graphs", type=Path, default=Path("work/bench_m3vit"))
    group = parser.add_argument_group("targets")
    group.add_argument("--against", type=Path, default=Path("examples/m3vit_t.pt"))
    group.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    group.add_argument("--task", action="append", default=[], help="compile for this task only")
    group.add_argument("--data", type=Path, nargs="+", default=[DATA / name for name in SETS])
    group.add_argument("--limit", type=int, help="val pictures, instead of each target's own")
    group.add_argument("--set", action="append", default=[], help="recipe keys for the compile")
    group.add_argument("--runs", type=Path, default=Path("work/bench_m3vit/runs"))
    options = parser.parse_args()
    if options.model is None:
        pruned = options.what == "targets"
        options.model = Path(f"examples/m3vit_t{'_pruned' if pruned else ''}.pt")
    options.runs.mkdir(parents=True, exist_ok=True)
    options.graphs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    PARTS[options.what](options)
    return 0


if __name__ == "__main__":
    run_tool(main)
