"""Times of routed mos_m on real val pictures, routed by the real router."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dynamic.accuracy import Tell, Work, opened
from dynamic.dependence import DATA_SETS
from dynamic.speed import TARGETS, summary, timed
from edgemtl.backends.routed import ROUTING
from edgemtl.compress.batches import images_of, prepare
from edgemtl.data.open import open_dataset
from edgemtl.exporting.routed import FULL_FILE, SINGLE_FILE
from edgemtl.files import write_json
from edgemtl.measure.machine import machine_facts
from edgemtl.models.checkpoint import load_network
from edgemtl.record.run_record import MASK as STORY

#: pictures of each data set
IMAGES = 30


def run(work: Work, runtimes: Sequence[str], seconds: float, tell: Tell) -> None:
    """Measure what is missing; one JSON file per runtime."""
    for target in runtimes:
        path = work.folder / f"stream-{target}.json"
        if not path.is_file():
            write_json(path, _measured(work, target, seconds, tell))


def _measured(work: Work, target: str, seconds: float, tell: Tell) -> dict[str, Any]:
    spec = load_network(work.checkpoint).input_spec
    images = []
    for name in DATA_SETS:
        dataset = open_dataset(work.data / name, "val")
        step = max(1, len(dataset) // IMAGES)
        few = dataset.subset(list(range(0, len(dataset), step))[:IMAGES])
        images += [images_of([prepare(s, (), spec)]).contiguous().numpy() for s in few]
    order = np.random.default_rng(0).permutation(len(images))
    images = [np.ascontiguousarray(images[i]) for i in order]
    sources = {"dense": work.routed / FULL_FILE}
    sources |= {f"static {p.stem.split('-')[1]}": p for p in _statics(work)}
    sources |= {
        "routed": work.routed / ROUTING,
        "routed, one file with If": work.routed / SINGLE_FILE,
        "routed, always sure": work.routed / ROUTING,
    }
    tell(f"stream of {len(images)} pictures on {TARGETS[target]}")
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(opened(source, target, "always" in name))
            for name, source in sources.items()
        }
        for session in sessions.values():
            for image in images:  # every network is loaded before it is timed
                session.run(image)
        chosen = {n: dict(s.chosen) for n, s in sessions.items() if hasattr(s, "chosen")}
        times = timed({name: s.run for name, s in sessions.items()}, images, seconds)
    built = json.loads((work.routed / STORY).read_text("utf-8"))["built"]
    macs = {name: [built["macs"][0]] for name in sources}
    for path in _statics(work):
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        macs[f"static {path.stem.split('-')[1]}"] = [facts["macs"]]
    for name, counts in chosen.items():
        total = sum(counts.values())
        mean = sum(m * c for m, c in zip(built["macs"], counts.values(), strict=True)) / total
        macs[name] = [mean]
    macs["routed, one file with If"] = macs["routed"]
    return {
        "runtime": TARGETS[target],
        "pictures": len(images),
        "machine": machine_facts().to_dict(),
        "macs": {name: value[0] for name, value in macs.items()},
        "chosen": chosen,
        "times": {name: summary(samples) for name, samples in times.items()},
    }


def _statics(work: Work) -> list[Path]:
    return sorted(work.folder.glob(f"static-*-{work.steps}.onnx"))


def table(folder: Path) -> str:
    """All streams found in a folder, as Markdown; processor time but where it says wall."""
    lines = [
        "| runtime | network | mean MACs | theory | mean ms | p50 ms | p99 ms | p99 / p50, wall "
        "| mean speed-up | of theory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("stream-*.json")):
        row = json.loads(path.read_text("utf-8"))
        dense, whole = row["times"]["dense"], row["macs"]["dense"]
        for name, one in row["times"].items():
            theory = whole / row["macs"][name]
            ratio = dense["cpu_mean_ms"] / one["cpu_mean_ms"]
            lines.append(
                f"| {row['runtime']} | {name} | {100 / theory:.0f} % | {theory:.2f} "
                f"| {one['cpu_mean_ms']:.1f} | {one['cpu_p50_ms']:.1f} | {one['cpu_p99_ms']:.1f} "
                f"| {one['p99_ms'] / one['p50_ms']:.2f} "
                f"| {ratio:.2f} | {100 * ratio / theory:.0f} % |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""
