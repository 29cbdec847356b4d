"""Theory against the clock: static networks, a dispatcher on the host, one file with ``If``.

Widths are forced: the real router runs, and a bias makes it name one prototype. All variants run
the same picture in turns of random order, one thread each, after their answers were compared.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynamic.networks import ResNet18
from dynamic.stages import StageOf, stage_file
from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.routed import ROUTING
from edgemtl.backends.session import Session
from edgemtl.backends.types import SessionOptions
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup, snapped_widths
from edgemtl.compress.dynamic.accounting import cost_model
from edgemtl.compress.dynamic.router import Router
from edgemtl.compress.dynamic.subnets import recalibrate
from edgemtl.errors import ParityFailed
from edgemtl.exporting.routed import FULL_FILE, export_routed, single_file
from edgemtl.files import write_json
from edgemtl.measure.machine import machine_facts
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network

Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
Tell = Callable[[str], None]
TARGETS = {"cpu": "ORT", "intel-cpu": "OpenVINO"}
SHARES = (0.25, 0.5, 0.75)
MULTIPLE = 16
#: runs of a turn that are timed, after one that is not
TIMED = 3
FEWEST_ROUNDS = 12
#: largest difference of two answers, relative to their range
TOLERANCE = 1e-3
IMAGES = 8


@dataclass(frozen=True)
class Subject:
    """A network and its forced prototypes.

    Attributes:
        name: for tables.
        full: the network.
        prototypes: narrower ones.
        macs: of the full one and each prototype.
        stage_of: where an ``If`` per stage can be written.
    """

    name: str
    full: MultiTaskNetwork
    prototypes: tuple[MultiTaskNetwork, ...]
    macs: tuple[float, ...]
    stage_of: StageOf | None = None


def narrowed(
    name: str,
    full: MultiTaskNetwork,
    chosen: Callable[[ChannelGroup], bool],
    stage_of: StageOf | None = None,
) -> Subject:
    """Prototypes with a share of the channels of some groups, drawn at random: for times only."""
    groups = channel_groups(full)
    model = cost_model(full, groups)
    prototypes, macs = [], [float(model.macs({}))]
    images = [full.example_input(2, seed=seed) for seed in range(2)]
    for share in SHARES:
        generator = torch.Generator().manual_seed(round(100 * share))
        keep = {}
        for group in filter(chosen, groups):
            choices = snapped_widths(group, MULTIPLE)
            width = min(choices, key=lambda w: abs(w - share * group.width))
            mask = torch.zeros(group.width, dtype=torch.bool)
            mask[torch.randperm(group.width, generator=generator)[:width]] = True
            keep[group.name] = mask
        network = cut(full, keep, groups)
        if stage_of is None:  # else what belongs to no stage would no longer be the same in all
            recalibrate(network, images)
        prototypes.append(network.eval())
        macs.append(float(model.macs({n: int((~m).sum()) for n, m in keep.items()})))
    return Subject(name, full, tuple(prototypes), tuple(macs), stage_of)


def inside_blocks(group: ChannelGroup) -> bool:
    """Whether a group of a residual network lies inside a block, so that its stream stays whole."""
    return any(m.tensor.endswith(".first.conv.weight") and m.dim == 0 for m in group.members)


def stage_of(node: str) -> int | None:
    """Which of the residual network's stages a node belongs to."""
    return int(node.split(".")[1][0]) if node.startswith("stages.") else None


def resnet(size: int) -> Subject:
    """ResNet-18-sized, random weights; the channels inside each block are cut."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet18(size).eval()
    return narrowed(f"ResNet-18-sized, {size}x{size}", network, inside_blocks, stage_of)


def mos(checkpoint: Path) -> Subject:
    """The trained network with every group narrowed: for times, its answers are worth nothing."""
    network = load_network(checkpoint)
    fold: Callable[[], MultiTaskNetwork] | None = getattr(network, "folded", None)
    return narrowed(checkpoint.stem, (fold() if fold else network).eval(), lambda group: True)


#: name -> from the checkpoint of --checkpoint
SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "mos_m": mos,
    "resnet-224": lambda checkpoint: resnet(224),
    "resnet-64": lambda checkpoint: resnet(64),
}


def run(
    subjects: Sequence[str],
    runtimes: Sequence[str],
    checkpoint: Path,
    folder: Path,
    seconds: float,
    tell: Tell,
) -> None:
    """Measure what is missing; one JSON file per subject and runtime."""
    for name in subjects:
        missing = [t for t in runtimes if not (folder / f"sweep-{name}-{t}.json").is_file()]
        if missing:
            subject = SUBJECTS[name](checkpoint)
            for target in missing:
                measure(subject, target, folder / f"sweep-{name}-{target}.json", seconds, tell)


def pinned(router: Router, index: int) -> Router:
    """The router with a bias that makes it name one prototype, whatever it sees."""
    made = copy.deepcopy(router).eval()
    with torch.no_grad():
        made.answer.bias[index] += 1e4
    return made


class Variants:
    """All ways to run a subject on one runtime, by name, and their sessions."""

    def __init__(self, target: str) -> None:
        self.target = targets.load(target)
        self.backend = registry.get(self.target.backend)
        self.sessions: dict[str, Session] = {}
        self._place = tempfile.TemporaryDirectory()

    def add(self, name: str, source: Path) -> None:
        """Compile and load a file (or a routing) under a name."""
        folder = Path(self._place.name) / f"{len(self.sessions)}"
        artefact = compile_for(self.target, source, folder)
        self.sessions[name] = self.backend.load(artefact, SessionOptions(threads=1))

    def close(self) -> None:
        """Release everything."""
        for session in self.sessions.values():
            session.close()
        self._place.cleanup()


def alike(a: Mapping[str, NDArray[np.float32]], b: Mapping[str, NDArray[np.float32]]) -> float:
    """Largest difference, relative to an output's range."""
    return max(
        float(np.abs(a[n] - b[n]).max()) / (float(b[n].max() - b[n].min()) or 1.0) for n in b
    )


def check(
    sessions: Mapping[str, Session], networks: Mapping[str, MultiTaskNetwork], x: Any
) -> None:
    """Every variant answers as the torch network that it stands for.

    Raises:
        ParityFailed: it does not.
    """
    for name, session in sessions.items():
        with torch.no_grad():
            wanted = {k: v.numpy() for k, v in networks[name](torch.from_numpy(x)).items()}
        error = alike(session.run(x), wanted)
        if not error <= TOLERANCE:
            raise ParityFailed(f"{name} differs from torch by {error:.2g} of the range")


def timed(
    runs: Mapping[str, Run], images: Sequence[NDArray[np.float32]], seconds: float, seed: int = 0
) -> dict[str, list[tuple[float, float]]]:
    """Name -> (wall, processor) milliseconds of each timed run, in turns of random order."""
    order, coin = list(runs), random.Random(seed)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
    for run in runs.values():
        run(images[0])
    began, rounds = time.monotonic(), 0
    while rounds < FEWEST_ROUNDS or time.monotonic() - began < seconds:
        image = images[rounds % len(images)]
        coin.shuffle(order)
        for name in order:
            run = runs[name]
            run(image)
            for _ in range(TIMED):
                wall, processor = time.perf_counter(), time.process_time()
                run(image)
                found[name].append(
                    (
                        1e3 * (time.perf_counter() - wall),
                        1e3 * (time.process_time() - processor),
                    )
                )
        rounds += 1
    return found


def summary(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median, mean and 99th percentile of wall and of processor times; how many."""
    wall, processor = np.array(samples).T
    return {
        "p50_ms": float(np.median(wall)),
        "mean_ms": float(wall.mean()),
        "p99_ms": float(np.percentile(wall, 99)),
        "cpu_p50_ms": float(np.median(processor)),
        "cpu_mean_ms": float(processor.mean()),
        "cpu_p99_ms": float(np.percentile(processor, 99)),
        "runs": len(samples),
    }


def measure(subject: Subject, target: str, path: Path, seconds: float, tell: Tell) -> None:
    """Time every variant of every forced prototype; one JSON file."""
    tell(f"{subject.name} on {TARGETS[target]}")
    variants = Variants(target)
    networks: dict[str, MultiTaskNetwork] = {}
    count = len(subject.prototypes)
    torch.manual_seed(0)
    router = Router(count, subject.full.input_spec.size)

    def add(name: str, source: Path, network: MultiTaskNetwork) -> None:
        variants.add(name, source)
        networks[name] = network

    try:
        with tempfile.TemporaryDirectory() as place:
            for index, network in enumerate(subject.prototypes):
                folder = Path(place) / f"{index}"
                if not index:
                    base = folder
                    made = pinned(router, index)
                    export_routed(
                        *(made, subject.full, subject.prototypes, 0.5, folder), variants.target
                    )
                    add("dense", folder / FULL_FILE, subject.full)
                else:
                    shutil.copytree(base, folder)
                    pin_file(folder / "router.onnx", index, count)
                add(f"static {index}", folder / f"prototype-{index + 1}.onnx", network)
                add(f"dispatched {index}", folder / ROUTING, network)
                single_file(folder, folder / "if.onnx")
                add(f"if {index}", folder / "if.onnx", network)
                if subject.stage_of is not None:
                    stage_file(folder, folder / "stages.onnx", subject.stage_of)
                    add(f"stages {index}", folder / "stages.onnx", network)
        images = [
            np.ascontiguousarray(subject.full.example_input(1, seed=s).numpy())
            for s in range(IMAGES)
        ]
        check(variants.sessions, networks, images[0])
        tell(f"  {len(networks)} variants answer as torch does; timing")
        found = timed({n: s.run for n, s in variants.sessions.items()}, images, seconds)
    finally:
        variants.close()
    write_json(
        path,
        {
            "subject": subject.name,
            "runtime": TARGETS[target],
            "macs": list(subject.macs),
            "shares": list(SHARES),
            "machine": machine_facts().to_dict(),
            "times": {name: summary(samples) for name, samples in found.items()},
        },
    )


def pin_file(path: Path, index: int, count: int) -> None:
    """Move the bias of an exported router, that names prototype 0, to another."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
    for tensor in model.graph.initializer:
        if tensor.name == last.input[2]:
            value = numpy_helper.to_array(tensor).copy()
            assert value.shape == (count,) and value[0] > 1e3
            value[0] -= 1e4
            value[index] += 1e4
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)


def table(folder: Path) -> str:
    """All sweeps found in a folder, as Markdown; speed-ups are ratios of processor times."""
    paths = sorted(folder.glob("sweep-*.json"))
    if not paths:
        return ""
    lines = [
        "| network, runtime | width | dense ms | theory | static | dispatched | nested If "
        "| If per stage | dispatched of theory | of static | p99 / p50, dense | dispatched |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in paths:
        row: dict[str, Any] = json.loads(path.read_text("utf-8"))
        times = row["times"]
        dense = times["dense"]
        for index, share in enumerate(row["shares"]):
            theory = row["macs"][0] / row["macs"][index + 1]
            kinds = ("static", "dispatched", "if", "stages")
            ratios = {
                kind: dense["cpu_p50_ms"] / times[f"{kind} {index}"]["cpu_p50_ms"]
                for kind in kinds
                if f"{kind} {index}" in times
            }
            shown = [f"{ratios[k]:.2f}" if k in ratios else "-" for k in kinds]
            tails = [t["p99_ms"] / t["p50_ms"] for t in (dense, times[f"dispatched {index}"])]
            lines.append(
                f"| {row['subject']}, {row['runtime']} | {share:g} "
                f"| {dense['cpu_p50_ms']:.1f} | {theory:.2f} | {' | '.join(shown)} "
                f"| {100 * ratios['dispatched'] / theory:.0f} % "
                f"| {100 * ratios['dispatched'] / ratios['static']:.0f} % "
                f"| {tails[0]:.2f} | {tails[1]:.2f} |"
            )
    return "\n".join(lines)
