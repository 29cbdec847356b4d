"""What int8 and fp16 cost and gain: the tables of docs/precision.md; resumable.

    python tools/bench_precision.py make            # ONNX files in every precision
    python tools/bench_precision.py accuracy        # on the validation splits, every runtime
    python tools/bench_precision.py speed           # interleaved; on an idle machine
    python tools/bench_precision.py libraries       # ONNX Runtime's and NNCF's quantisers too
    python tools/bench_precision.py table           # write docs/precision.md
    python tools/bench_precision.py all

Calibration and fallback see the training splits only, accuracy is measured on the validation
splits. Each figure is kept under ``--work`` beside the hash of the file it belongs to; what is
there is not measured again. NNCF is compared where it is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from precision.libraries import LIBRARIES
from precision.pages import page

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.compress.quantize import QuantizeOptions, quantize
from edgemtl.compress.quantize.images import canvases, split
from edgemtl.data.concat import Concatenated
from edgemtl.data.open import open_dataset
from edgemtl.errors import EdgemtlError
from edgemtl.exporting.metadata import read_metadata
from edgemtl.exporting.network import export_alone
from edgemtl.files import sha256_file, write_json, write_text
from edgemtl.logs import Lines
from edgemtl.measure.accuracy import evaluate
from edgemtl.measure.latency import compare
from edgemtl.measure.results import InterleaveRule, StopRule
from edgemtl.measure.timed import bench_request
from edgemtl.models.checkpoint import load_network

DATA_SETS = ("faces_crowd", "faces_landmarks")
TARGETS = ("intel-cpu", "cpu")
PRECISIONS = ("fp32", "fp16", "int8")
#: ONNX Runtime has no float16 convolution on a CPU: it casts back and forth around each
LACKING = {("fp16", "cpu")}
BUDGET = 0.01
MODELS = ("mos_t", "mos_m", "mos_m_pruned")
#: a smaller network in int8 against a larger one in fp32
HEADLINES = (("mos_m_pruned", "mos_m"),)


def tell(line: str) -> None:
    """Print with the time of day."""
    print(time.strftime("%H:%M:%S"), line, flush=True)


def kept(path: Path, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured for this key before, or what is measured now."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found["key"] == key:
            return found
    made = {"key": key, **make()}
    write_json(path, made)
    return made


def calibration(data: Path) -> Concatenated:
    """Training pictures of all data sets."""
    return Concatenated([open_dataset(data / name, "train") for name in DATA_SETS])


def present(options: argparse.Namespace) -> list[str]:
    """The models whose checkpoints are there."""
    return [name for name in options.models if (options.examples / f"{name}.pt").is_file()]


def make_float(options: argparse.Namespace, name: str) -> Path:
    """Export a checkpoint, once."""
    checkpoint: Path = options.examples / f"{name}.pt"
    folder: Path = options.work / name
    path = folder / "fp32.onnx"

    def export() -> dict[str, Any]:
        tell(f"{name}: exporting")
        network = load_network(checkpoint)
        export_alone(network, targets.load(TARGETS[0]), path)
        return {"size_before": path.stat().st_size, "size_after": path.stat().st_size}

    folder.mkdir(parents=True, exist_ok=True)
    kept(folder / "fp32.json", {"checkpoint": sha256_file(checkpoint)}, export)
    return path


def make_lower(options: argparse.Namespace, name: str, precision: str) -> Path:
    """Quantise, once."""
    source = make_float(options, name)
    path = options.work / name / f"{precision}.onnx"
    tasks, spec = read_metadata(source)
    asked = QuantizeOptions(
        precision="int8" if precision == "int8" else "fp16",
        budgets={task.name: BUDGET for task in tasks},
        eval_images=options.judge_images,
        unsigned=True,  # as both runtimes read it
    )

    def run() -> dict[str, Any]:
        began = time.monotonic()
        with Lines(lambda line: tell(f"{name} {precision}: {line}")).shown():
            result = quantize(source, path, tasks, spec, calibration(options.data), asked)
        return {"seconds": time.monotonic() - began, **result.to_dict()}

    key = {
        "source": sha256_file(source),
        "budget": BUDGET,
        "images": asked.images,
        "judge": asked.eval_images,
        "narrow_sums": asked.reduce_range,
        "unsigned": asked.unsigned,
    }
    kept(options.work / name / f"{precision}.json", key, run)
    return path


def make(options: argparse.Namespace) -> None:
    """All files."""
    for name in present(options):
        for precision in PRECISIONS:
            make_one(options, name, precision)


def make_one(options: argparse.Namespace, name: str, precision: str) -> Path:
    """The file of one precision."""
    if precision == "fp32":
        return make_float(options, name)
    return make_lower(options, name, precision)


def compiled(onnx: Path, target_name: str, folder: str) -> Artefact:
    """The artefact of a file."""
    return compile_for(targets.load(target_name), onnx, Path(folder))


def measure_accuracy(
    options: argparse.Namespace, onnx: Path, source: Path, target: str
) -> dict[str, Any]:
    """Primary figures on the validation splits, of the artefact as it runs."""

    def run() -> dict[str, Any]:
        tell(f"accuracy of {onnx.parent.name}/{onnx.name} on {target}")
        tasks, spec = read_metadata(source)
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            artefact = compiled(onnx, target, folder)
            backend = registry.get(artefact.backend)
            session = backend.load(artefact, SessionOptions(threads=1))
            for data_set in DATA_SETS:
                report = evaluate(
                    session.run, tasks, spec, open_dataset(options.data / data_set, "val")
                )
                found[data_set] = report.to_dict()["tasks"]
            session.close()
        return {"tasks": found}

    path = onnx.with_name(f"{onnx.stem}.{target}.accuracy.json")
    return kept(path, {"onnx": sha256_file(onnx)}, run)


def accuracy(options: argparse.Namespace) -> None:
    """All files on all runtimes that have their precision."""
    for name in present(options):
        for precision in PRECISIONS:
            onnx = make_one(options, name, precision)
            for target in TARGETS:
                if (precision, target) not in LACKING:
                    measure_accuracy(options, onnx, make_float(options, name), target)


def measure_speed(options: argparse.Namespace, fast: Path, slow: Path, target: str) -> None:
    """How much faster one file is than another, in turns, with one thread."""

    def run() -> dict[str, Any]:
        tell(f"{fast.parent.name}/{fast.name} against {slow.parent.name}/{slow.name} on {target}")
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            session = SessionOptions(threads=1)
            found = compare(
                bench_request(compiled(fast, target, one), session, StopRule()),
                bench_request(compiled(slow, target, two), session, StopRule()),
                InterleaveRule(max_seconds=options.seconds),
            )
        tell(f"  {found.speedup.value:.2f}x ({found.speedup.low:.2f} to {found.speedup.high:.2f})")
        return {
            "speedup": found.to_dict()["speedup"],
            "fast_ms": found.a.summary.to_dict(),
            "slow_ms": found.b.summary.to_dict(),
            "machine": found.a.machine.to_dict(),
            "pairs": found.pairs,
            "runs_per_block": found.runs_per_block,
        }

    versus = "" if slow.parent == fast.parent else f".{slow.parent.name}"
    path = fast.with_name(f"{fast.stem}.{target}{versus}.speed.json")
    kept(path, {"fast": sha256_file(fast), "slow": sha256_file(slow)}, run)


def speed(options: argparse.Namespace) -> None:
    """All lower precisions against fp32."""
    names = present(options)
    for name in names:
        for precision in PRECISIONS[1:]:
            for target in TARGETS:
                if (precision, target) not in LACKING:
                    fast = make_one(options, name, precision)
                    measure_speed(options, fast, make_float(options, name), target)
    for small, large in HEADLINES:
        if small in names and large in names:
            fast, slow = make_one(options, small, "int8"), make_float(options, large)
            measure_speed(options, fast, slow, TARGETS[0])


def libraries(options: argparse.Namespace) -> None:
    """Other libraries' int8 beside ours, all without fallback."""
    jetson = targets.load("jetson-xavier-nx")
    for name in present(options):
        source = make_float(options, name)
        _, spec = read_metadata(source)
        folder = options.work / name / "libraries"
        folder.mkdir(parents=True, exist_ok=True)
        calibrating, *_ = split(calibration(options.data), QuantizeOptions().images, 0, 0)
        images = canvases(calibrating, spec)
        for library, quantizer in LIBRARIES.items():
            path = folder / f"{library}.onnx"

            def run(
                library: str = library,
                quantizer: Callable[..., None] = quantizer,
                path: Path = path,
                source: Path = source,
                images: Any = images,
            ) -> dict[str, Any]:
                tell(f"{source.parent.name}: quantising with {library}")
                began = time.monotonic()
                quantizer(source, path, images)
                seconds = time.monotonic() - began
                refused = registry.get(jetson.backend).problems(path, jetson)
                return {
                    "seconds": seconds,
                    "size": path.stat().st_size,
                    "tensorrt": sorted({p.reason for p in refused if p.fatal}),
                }

            try:
                kept(folder / f"{library}.json", {"source": sha256_file(source)}, run)
            except ImportError as error:
                tell(f"left out {library}: {error}")
                continue
            measure_accuracy(options, path, source, TARGETS[0])
            if not options.no_speed:
                for target in TARGETS:
                    measure_speed(options, path, source, target)


def table(options: argparse.Namespace) -> None:
    """Write the page from what was measured."""
    write_text(options.output, page(options.work, list(options.models), PRECISIONS, TARGETS))
    tell(f"wrote {options.output}")


STEPS: dict[str, Callable[[argparse.Namespace], None]] = {
    "make": make,
    "accuracy": accuracy,
    "speed": speed,
    "libraries": libraries,
    "table": table,
}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*STEPS, "all"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="those that are there")
    parser.add_argument("--examples", type=Path, default=Path("examples"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("work/precision"), help="kept state")
    parser.add_argument("--output", type=Path, default=Path("docs/precision.md"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of each comparison of speed")
    parser.add_argument(
        "--judge-images",
        type=int,
        default=QuantizeOptions("int8").eval_images,
        help="training pictures that choose what stays in float32",
    )
    parser.add_argument("--no-speed", action="store_true", help="libraries: accuracy only")
    options = parser.parse_args()
    try:
        for what in STEPS if options.what == "all" else [options.what]:
            STEPS[what](options)
    except EdgemtlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
