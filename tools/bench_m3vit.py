"""Measure M3ViT where it runs: experts against dense, one task against all, a change of task.

    python tools/bench_m3vit.py layer              # a layer of 16 experts, 4 used, two runtimes
    python tools/bench_m3vit.py network            # the published small NYUD network
    python tools/bench_m3vit.py macs               # multiply-accumulates and published baselines
    python tools/bench_m3vit.py switch             # task to task in one artefact of m3vit_t

Times are medians of one thread, the variants taking turns in blocks, on a machine that does
nothing else. Weights of ``layer`` and ``network`` are random: the published training is not
available, and a time depends on them only through how evenly tokens spread over the experts.
``--graphs DIR`` keeps the exported graphs; ``--rounds 0`` makes and checks them and times nothing.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.base import SessionOptions
from edgemtl.backends.taskfiles import TaskSessions, with_task_files
from edgemtl.errors import EdgemtlError
from edgemtl.export.experts import unstack_weights, written_experts
from edgemtl.export.module_cost import module_costs
from edgemtl.export.onnx_export import export_onnx
from edgemtl.export.simplify import simplify
from edgemtl.models.checkpoint import load_network
from edgemtl.models.m3vit.experts import Experts, Lowering
from edgemtl.models.m3vit.gates import Gate, NoiseSource
from edgemtl.models.m3vit.network import M3ViT

Run = Callable[[NDArray[np.float32]], Any]
ONE_THREAD = SessionOptions(threads=1)
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
        answers: Tensor = self.experts(tokens, self.gate(tokens))[0]
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


def in_turns(runs: Mapping[str, Callable[[int], Any]], rounds: int, block: int) -> dict[str, float]:
    """Median milliseconds of each; blocks of runs take turns, the first of a block not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds):
        for name, run in runs.items():
            run(round_ * block)
            for index in range(block):
                began = time.perf_counter()
                run(round_ * block + index)
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def bench_layer(options: argparse.Namespace) -> None:
    """Dense against the lowerings; every picture is another input, so queues differ in length."""
    experts, top_k, dim = 16, 4, 384
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
    cells = [f"{found[n]:.2f} ms, {found['dense'] / found[n]:.2f}x" for n in list(runs)[1:]]
    return f"| {runtime} | {tokens} | {hidden} | {found['dense']:.1f} | " + " | ".join(cells) + " |"


def bench_network(options: argparse.Namespace) -> None:
    """The published small NYUD network, one task against both, each from scratch and sharing."""
    torch.manual_seed(0)
    network = M3ViT(NYUD, variant="small", size=(480, 640)).eval()
    images = np.random.default_rng(0).standard_normal((1, 3, 480, 640)).astype(np.float32)
    runs: dict[str, Callable[[int], Any]] = {}
    for label, tasks in (("semseg", ["semseg"]), ("depth", ["depth"]), ("both", None)):
        path = options.graphs / f"nyud-{label}.onnx"
        if not path.exists():
            raw = options.graphs / "raw.onnx"
            export_onnx(network, raw, opset=17, tasks=tasks, experts="sorted")
            simplify(raw, path)
        if options.rounds:
            run = runner(path, "onnxruntime")
            runs[label] = lambda i, run=run: run(images)
    if not options.rounds:
        return
    found = in_turns(runs, options.rounds, 1)
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
        raw = options.graphs / "raw.onnx"
        simplify(export_onnx(network, raw, opset=17, experts=cpu.experts).path, graph)
    if not options.rounds:
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        artefact = registry.get(cpu.backend).compile(graph, cpu, place)
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
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
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
                began = time.perf_counter()
                sessions.run(name, images)
                times.append((time.perf_counter() - began) * 1e3)
    return (
        {name: float(np.median(values)) for name, values in same.items()},
        {name: float(np.median(values)) for name, values in switched.items()},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["layer", "network", "macs", "switch"])
    parser.add_argument("--model", type=Path, default=Path("examples/m3vit_t.pt"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--widths", nargs="+", type=int, default=[384], help="inside an expert")
    parser.add_argument("--graphs", type=Path, default=Path("work/bench_m3vit"))
    options = parser.parse_args()
    options.graphs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    parts = {
        "layer": bench_layer,
        "network": bench_network,
        "macs": count_macs,
        "switch": bench_switch,
    }
    parts[options.what](options)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
