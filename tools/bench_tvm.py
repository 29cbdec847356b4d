"""TVM's scheduled code against ONNX Runtime on this machine: the tables of docs/tvm.md.

    python tools/bench_tvm.py                     # all, on an idle machine
    python tools/bench_tvm.py --models mos_t --seconds 20

Each network is exported, compiled for ``tvm-x86`` and for ``cpu`` (ONNX Runtime), compared on
random pictures, and then measured in turns, one process each (``edgemtl bench --against`` does the
same). DeiT-tiny has random weights: they do not change what is computed. Shares are the shortest
of many runs of every function, with one thread. ``--kept`` keeps what was measured beside the hash
of the library; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.tvm.child import environment
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import EdgemtlError, ParityFailed
from edgemtl.files import sha256_file, write_json
from edgemtl.measure.latency import compare
from edgemtl.measure.results import InterleaveRule, StopRule
from edgemtl.measure.timed import bench_request
from edgemtl.pipeline.exporting import export_file

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("mos_t", "mos_m", "deit_tiny")
#: largest difference to ONNX Runtime, of the largest value of an output
PARITY = 1e-5
#: kinds of functions by what their names hold, the first that fits
KINDS = (
    ("edge_conv", "convolution"),
    ("edge_depthwise", "depthwise"),
    ("edge_pointwise", "1x1 convolution"),
    ("edge_matmul", "fully connected"),
    ("edge_batched", "attention products"),
    ("edge_softmax", "softmax"),
    ("edge_layer_norm", "layer norm"),
    ("edge_concat", "concatenation"),
)


def tell(line: str) -> None:
    """Print with the time of day, apart from the tables."""
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.before, self.between = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        parts = self.qkv(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.between(x))
        return result


class DeitTiny(nn.Module):
    """DeiT-tiny (Touvron et al. 2021, table 1): 12 blocks, width 192, 3 heads, 197 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 192) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 197, 192) * 0.02)
        self.blocks = nn.Sequential(*(Block(192, 3) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(192, 1e-6), nn.Linear(192, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 1000)."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        result: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return result


def exported(name: str, folder: Path) -> Path:
    """The network's ONNX file."""
    path = folder / f"{name}.onnx"
    if name != "deit_tiny":
        export_file(ROOT / "examples" / f"{name}.pt", path, targets.load("tvm-x86"))
        return path
    torch.manual_seed(0)
    torch.onnx.export(
        DeitTiny().eval(),
        (torch.randn(1, 3, 224, 224),),
        str(path),
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
    )
    return path


def compiled(onnx: Path, target_name: str, folder: Path) -> Artefact:
    """The artefact of a file."""
    return compile_for(targets.load(target_name), onnx, folder)


def check(a: Artefact, b: Artefact) -> float:
    """Largest difference, of the largest value of an output.

    Raises:
        ParityFailed: it is above :data:`PARITY`.
    """
    sessions = [registry.get(one.backend).load(one, SessionOptions(1)) for one in (a, b)]
    worst = 0.0
    for seed in range(3):
        images = np.random.default_rng(seed).standard_normal(sessions[0].input_shape)
        found, wanted = (session.run(images.astype(np.float32)) for session in sessions)
        for name, value in wanted.items():
            worst = max(worst, float(np.abs(found[name] - value).max() / np.abs(value).max()))
    for session in sessions:
        session.close()
    if worst > PARITY:
        raise ParityFailed(f"TVM and ONNX Runtime differ by {worst:.1e}")
    return worst


def kind_of(name: str) -> str:
    """What a function is."""
    return next((kind for mark, kind in KINDS if mark in name), "other")


def shares(library: str) -> dict[str, float]:
    """Microseconds per kind: each function's shortest of 60 runs. In a process of its own."""
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would load it for nothing
    import tvm

    shape = json.loads(Path(library).with_name("model.json").read_text("utf-8"))["input_shape"]
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
    image = tvm.runtime.tensor(np.zeros(shape, np.float32))
    calls: list[tuple[str, float]] = []
    began = [0.0]

    def watch(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> None:
        if before:
            began[0] = time.perf_counter()
        else:
            calls.append((name, time.perf_counter() - began[0]))

    machine.set_instrument(watch)
    best: dict[int, tuple[str, float]] = {}
    for _ in range(60):
        calls.clear()
        machine["main"](image)
        for place, (name, seconds) in enumerate(calls):
            best[place] = (name, min(seconds, best.get(place, (name, seconds))[1]))
    total: Counter[str] = Counter()
    for name, seconds in best.values():
        if not name.startswith("vm."):  # bookkeeping: mostly the watch's own time
            total[kind_of(name)] += seconds * 1e6  # type: ignore[assignment]
    return dict(total)


def measured(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one network."""
    tell(f"{name}: exporting and compiling")
    onnx = exported(name, folder)
    began = time.monotonic()
    fast = compiled(onnx, "tvm-x86", folder / f"{name}-tvm")
    seconds = time.monotonic() - began
    slow = compiled(onnx, "cpu", folder / f"{name}-ort")
    library = fast.folder / "model.so"
    kept = options.kept / f"{name}.json" if options.kept else None
    if kept and kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        if found["library"] == sha256_file(library):
            return found
    difference = check(fast, slow)
    found = {
        "library": sha256_file(library),
        "compile_seconds": seconds,
        "difference": difference,
        "threads": {},
    }
    for threads in (1, 2):
        tell(f"{name}: {threads} thread(s)")
        rule = InterleaveRule(max_seconds=options.seconds)
        session = SessionOptions(threads)
        requests = [bench_request(one, session, StopRule()) for one in (fast, slow)]
        turns = compare(requests[0], requests[1], rule)
        found["threads"][str(threads)] = turns.to_dict()
    program = [sys.executable, __file__, "--shares", str(library)]
    done = subprocess.run(program, env=environment(1), capture_output=True, text=True, check=True)
    found["shares"] = json.loads(done.stdout)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, found)
    return found


def page(results: dict[str, dict[str, Any]]) -> str:
    """Both tables."""
    lines = [
        "| network | threads | ONNX Runtime, ms | TVM, ms | TVM's time / ONNX Runtime's | parity |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for threads, turns in found["threads"].items():
            speedup = turns["speedup"]
            middle, low, high = (1 / speedup[key] for key in ("value", "high", "low"))
            ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            ratio += "" if speedup["stable"] else ", unstable"
            theirs, ours = (turns[key]["summary"]["p50_ms"] for key in ("b", "a"))
            lines.append(
                f"| {name} | {threads} | {theirs:.2f} | {ours:.2f} | {ratio} "
                f"| {found['difference']:.0e} |"
            )
    kinds = [kind for _, kind in KINDS] + ["other"]
    lines += ["", "| network | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, found in results.items():
        total = sum(found["shares"].values())
        parts = [f"{100 * found['shares'].get(kind, 0.0) / total:.1f} %" for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each comparison")
    parser.add_argument("--kept", type=Path, help="folder of what was measured")
    parser.add_argument("--shares", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.shares:
        print(json.dumps(shares(options.shares)))
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = {name: measured(name, Path(folder), options) for name in options.models}
    except EdgemtlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    print(page(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
