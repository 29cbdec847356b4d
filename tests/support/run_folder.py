"""Run folders for tests of the report: whole ones and broken ones. Every figure is invented."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgemtl.gates.judge import GateFacts, judge
from edgemtl.gates.limits import parse_limits
from edgemtl.measure.accuracy import AccuracyReport, TaskAccuracy
from edgemtl.measure.machine import MachineFacts
from edgemtl.measure.results import Comparison, LatencyResult, Memory
from edgemtl.measure.statistics import drift, ratio_of_medians, summarise
from edgemtl.tasks.base import MetricSpec

PRIMARY = {
    "detection": MetricSpec("ap_20px", "AP of faces of 20 px and more", "higher"),
    "landmarks": MetricSpec("nme_percent", "NME", "lower", "%"),
    "pose": MetricSpec("mae_deg", "mean pose error", "lower", "deg"),
}
SECONDARY = {
    "detection": (MetricSpec("ap", "AP of all faces", "higher"),),
    "landmarks": (MetricSpec("missed_share", "missed faces", "lower"),),
    "pose": (
        MetricSpec("yaw", "yaw error", "lower", "deg"),
        MetricSpec("pitch", "pitch error", "lower", "deg"),
        MetricSpec("roll", "roll error", "lower", "deg"),
    ),
}
BEFORE = {
    "detection": {"ap": 0.6187, "ap_20px": 0.7831},
    "landmarks": {"nme_percent": 4.132, "missed_share": 0.0871},
    "pose": {"mae_deg": 6.214, "yaw": 5.113, "pitch": 7.842, "roll": 5.687},
}
AFTER = {
    "detection": {"ap": 0.6122, "ap_20px": 0.7768},
    "landmarks": {"nme_percent": 4.171, "missed_share": 0.0893},
    "pose": {"mae_deg": 6.101, "yaw": 5.061, "pitch": 7.603, "roll": 5.639},
}
#: module -> (operator, MACs and parameters before, the same after)
MODULES = {
    "backbone.stem.conv": ("Conv", 22_118_400, 864, 14_745_600, 576),
    **{
        f"backbone.stages.{stage}.{block}.{part}": (
            "Conv",
            macs // (block + 1),
            parameters,
            int(macs * 0.52) // (block + 1),
            int(parameters * 0.48),
        )
        for stage, (macs, parameters) in enumerate(
            ((64_000_000, 12_800), (88_000_000, 54_000), (71_000_000, 210_000))
        )
        for block in range(2)
        for part in ("expand", "depthwise", "project")
    },
    "neck.fpn.lateral": ("Conv", 31_000_000, 41_000, 19_000_000, 26_000),
    "neck.context.deformable": ("DeformConv", 118_000_000, 92_000, 61_000_000, 47_000),
    "heads.detection.classes": ("Conv", 8_200_000, 1_560, 8_200_000, 1_560),
    "heads.detection.boxes": ("Conv", 16_400_000, 3_120, 16_400_000, 3_120),
    "heads.landmarks.points": ("Conv", 41_000_000, 7_800, 41_000_000, 7_800),
    "heads.pose.yaw": ("Conv", 55_000_000, 51_000, 29_000_000, 27_000),
}
_MACHINE = MachineFacts("Example CPU 2.40GHz", 2, "Linux x86_64", 0.42, None, 2400.0, 51.0)


def _samples(median_ms: float, count: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    body = median_ms * (1 + 0.03 * rng.standard_normal(count) ** 2)
    slow = rng.random(count) < 0.02
    body[slow] *= 1 + rng.random(int(slow.sum()))
    return [float(v) for v in body.round(4)]


def latency(median_ms: float, count: int = 400, seed: int = 0) -> LatencyResult:
    """An invented measurement around this median."""
    samples = _samples(median_ms, count, seed)
    found = drift(samples)
    return LatencyResult(
        samples_ms=tuple(samples),
        summary=summarise(samples),
        throughput_per_s=1e3 / float(np.mean(samples)),
        import_ms=212.4,
        load_ms=38.1,
        first_inference_ms=median_ms * 2.4,
        batch=1,
        threads=1,
        process_threads=1,
        memory=Memory(31_000_000, 64_000_000, 83_000_000, 121_000_000 + round(median_ms * 1e6)),
        preprocess=summarise(_samples(1.21, 30, 7)),
        postprocess=summarise(_samples(0.62, 30, 8)),
        machine=_MACHINE,
        machine_after=replace(_MACHINE, temperature_c=54.0),
        fed="picture",
        warmup_runs=12,
        attempts=1,
        trend=found.trend,
        stable=found.stable,
        reason=found.reason,
    )


def comparison(a_ms: float, b_ms: float) -> Comparison:
    """An invented comparison of an artefact (A) with the reference (B)."""
    a, b = latency(a_ms, 400, 1), latency(b_ms, 400, 2)
    blocks = [np.array_split(np.asarray(r.samples_ms), 20) for r in (a, b)]
    ratio = ratio_of_medians(blocks[1], blocks[0], seed=0, resamples=200)
    return Comparison(ratio, a, b, 20, 20, "ABBA" * 10, 0)


def _accuracy(values: dict[str, dict[str, float]], data: str) -> AccuracyReport:
    counts = {"detection": 1204, "landmarks": 877, "pose": 861}
    return AccuracyReport(
        {task: TaskAccuracy(found, counts[task]) for task, found in values.items()},
        120,
        ("0042.jpg: not a picture",),
        data,
        "pictures letterboxed to 320x320",
    )


def _cost(side: int) -> dict[str, Any]:
    nodes = [
        {"node": f"node_{i}", "op": row[0], "module": module}
        | {"macs": row[1 + 2 * side], "parameters": row[2 + 2 * side]}
        for i, (module, row) in enumerate(MODULES.items())
    ]
    parameters = sum(node["parameters"] for node in nodes)
    return {
        "macs": sum(node["macs"] for node in nodes),
        "parameters": parameters,
        "activation_bytes": 48_300_000 if side == 0 else 27_900_000,
        "size_bytes": parameters * 4 + 61_000,
        "per_node": nodes,
    }


def _parity() -> dict[str, Any]:
    outputs = {
        "detection.classes": "detection",
        "detection.boxes": "detection",
        "landmarks.points": "landmarks",
        "pose.yaw": "pose",
    }
    # the simplified graph computes the very same, whose signal to noise is infinite: null
    figures = {"onnx": 1.1e-6, "simplified": 0.0, "artefact": 2.3e-6}
    return {
        "passed": True,
        "reference": "torch",
        "stages": {
            form: {
                "passed": True,
                "within_tolerance": True,
                "precision": "fp32",
                "max_relative_allowed": 1e-4,
                "informational": False,
                "inputs": 4,
                "tasks": dict.fromkeys(PRIMARY, True),
                "outputs": [
                    {
                        "name": output,
                        "task": task,
                        "ok": True,
                        "max_abs": worst * (k + 1),
                        "max_relative": worst * (k + 1) / 4,
                        "mean_abs": worst / 10,
                        "snr_db": 121.4 - 3 * k if worst else None,
                        "problem": "",
                    }
                    for k, (output, task) in enumerate(outputs.items())
                ],
            }
            for form, worst in figures.items()
        },
    }


def _pictures(folder: Path) -> None:
    folder.mkdir()
    for index, name in enumerate(("crowd_0007", "portrait_0031")):
        rng = np.random.default_rng(index)
        coarse = rng.integers(40, 215, (4, 5, 3)).astype(np.float32)
        picture = cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        for side, shift in (("before", 0), ("after", 3)):
            drawn = picture.copy()
            for face in range(3):
                x, y = 60 + 130 * face + shift, 90 + 40 * face
                cv2.ellipse(drawn, (x + 40, y + 50), (40, 50), 0, 0, 360, (150, 180, 220), -1)
                cv2.rectangle(drawn, (x, y), (x + 80, y + 100), (80, 220, 60), 2, cv2.LINE_AA)
            cv2.imwrite(str(folder / f"{name}.{side}.png"), drawn)


def write_run(
    folder: Path, limits: dict[str, Any] | None = None, kind: str = "measured", noisy: bool = False
) -> Path:
    """Write a complete run folder whose gates are judged by the real judge.

    Args:
        folder: must not exist.
        limits: the recipe's ``[gates]``; by default one that the invented figures pass.
        kind: how the artefact's latency came to be (``measured``, ``emulated``, ...).
        noisy: whether the timings are called unstable.
    """
    (folder / "bench").mkdir(parents=True)
    recipe_gates = limits or {"cost": {"macs_ratio": 0.7}, "latency": {"p99_ms": 60.0}}
    before, after = _accuracy(BEFORE, "faces/val"), _accuracy(AFTER, "faces/val")
    costs = {"reference": _cost(0), "artefact": _cost(1)}
    slow, fast, pair = latency(38.2, seed=3), latency(19.7, seed=4), comparison(19.7, 38.2)
    fast = replace(fast, kind=kind)
    if noisy:
        fast = replace(fast, stable=False, reason="medians of 8 parts of the run lie 31% apart")
        ratio = replace(pair.speedup, low=0.81, high=3.1, stable=False, reason="too wide")
        pair = replace(pair, speedup=ratio)
    pair = replace(pair, a=replace(pair.a, kind=kind))
    pruned = sorted({module.rpartition(".")[0] for module in MODULES if "stages" in module})
    facts = GateFacts(
        PRIMARY,
        {name: task.values for name, task in before.tasks.items()},
        {name: task.values for name, task in after.tasks.items()},
        {},
        {key: costs["reference"][key] for key in ("macs", "parameters", "size_bytes")},
        {key: costs["artefact"][key] for key in ("macs", "parameters", "size_bytes")},
        fast.to_dict(),
        pair.to_dict(),
    )
    gates = judge(parse_limits(recipe_gates), facts)
    documents: dict[str, Any] = {
        "run.json": {
            "schema_version": 1,
            "name": "mos_m",
            "command": "edgemtl compile examples/mos_m.pt --target cpu",
            "model": {
                "path": "examples/mos_m.pt",
                "family": "mos",
                "variant": "mos-m",
                "source_sha256": "3f" * 32,
                "parameters": costs["reference"]["parameters"],
            },
            "target": {
                "name": "cpu",
                "backend": "onnxruntime",
                "device": "CPU",
                "description": "Any x86-64 or ARM machine with ONNX Runtime",
            },
            "recipe": {"gates": recipe_gates, "data": {"root": "faces", "evaluation": "val"}},
            "stages": [
                {"name": name, "status": status, "seconds": seconds, "key": f"{i:02x}" * 32}
                for i, (name, status, seconds) in enumerate(
                    (
                        ("load", "cached", 0.02),
                        ("prune", "done", 71.3),
                        ("export", "done", 6.41),
                        ("parity", "done", 2.1),
                        ("compile", "done", 0.84),
                        ("accuracy", "done", 14.2),
                        ("bench", "done", 33.9),
                        ("gates", "done", 0.01),
                    )
                )
            ],
            "versions": {"python": "3.11.2", "edgemtl": "0.1.0", "torch": "2.13.0+cpu"},
            "machine": {"cpu": _MACHINE.cpu, "cores": 2, "system": _MACHINE.system},
            "started_utc": "2026-01-02T03:04:05Z",
            "status": "passed" if gates.passed else "gates failed",
            "exit_code": int(gates.exit_code()),
            "error": None,
            "bundle": "bundle/mos_m-cpu.edgemtl",
        },
        "accuracy.json": {
            "reference": before.to_dict(),
            "artefact": after.to_dict(),
            "metrics": {
                task: {
                    "primary": asdict(PRIMARY[task]),
                    "secondary": [asdict(spec) for spec in SECONDARY[task]],
                }
                for task in PRIMARY
            },
        },
        "cost.json": costs,
        "parity.json": _parity(),
        "bench/reference.json": slow.to_dict(),
        "bench/artefact.json": fast.to_dict(),
        "bench/comparison.json": pair.to_dict(),
        "bench/layers.json": {
            "backend": "onnxruntime",
            "layers": [
                {
                    "layer": f"{module}/{row[0]}_nchwc",
                    "kind": row[0],
                    "nodes": [f"{module}/{row[0]}"],
                    "ms": row[3] / 1e8,
                }
                for module, row in MODULES.items()
            ]
            + [{"layer": "ReorderInput", "kind": "ReorderInput", "nodes": [], "ms": 0.11}],
        },
        "gates.json": gates.to_dict(),
        "prune.json": {
            "method": "pagcp",
            "steps": [
                {
                    "group": name,
                    "width_before": 32 * (index + 1),
                    "width_after": 16 * (index + 1),
                    "loss_rise": {"detection": 0.0021 * index, "pose": 0.004 - 0.001 * index},
                }
                for index, name in enumerate(pruned)
            ],
        },
    }
    for position, stage in enumerate(documents["run.json"]["stages"], 1):
        place = folder / "stages" / f"{position:02d}-{stage['name']}"
        place.mkdir(parents=True)
        notes = ["4 pictures, largest difference 9.2e-06"] if stage["name"] == "parity" else []
        (place / "stage.json").write_text(json.dumps({**stage, "notes": notes}), "utf-8")
    for name, data in documents.items():
        (folder / name).write_text(json.dumps(data, indent=1), "utf-8")
    _pictures(folder / "pictures")
    (folder / "bundle").mkdir()
    (folder / "bundle" / "mos_m-cpu.edgemtl").write_bytes(b"not a bundle")
    return folder


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change one JSON file in place; ``change`` edits what it gets or returns something new."""
    data = json.loads((folder / name).read_text("utf-8"))
    changed = change(data)
    (folder / name).write_text(json.dumps(data if changed is None else changed), "utf-8")


def _failed_stage(folder: Path) -> None:
    for name in ("accuracy", "cost", "gates", "prune"):
        (folder / f"{name}.json").unlink()
    shutil.rmtree(folder / "bench")
    shutil.rmtree(folder / "pictures")

    def stop(run: dict[str, Any]) -> None:
        run["stages"] = run["stages"][:4]
        run["stages"][3]["status"] = "failed"
        run["error"] = "torch against simplified: task 'pose', output 'pose.yaw' differs"
        run |= {"status": "failed", "exit_code": 5, "bundle": None}

    def differ(parity: dict[str, Any]) -> None:
        row = parity["stages"]["simplified"]["outputs"][3]
        row |= {"max_abs": 0.71, "max_relative": 0.22, "snr_db": 12.4, "ok": False}

    edit(folder, "run.json", stop)
    edit(folder, "parity.json", differ)


def _interrupted(folder: Path) -> None:
    _failed_stage(folder)

    def running(run: dict[str, Any]) -> None:
        run["stages"] = run["stages"][:3]
        run |= {"status": "running", "exit_code": None, "error": None}

    edit(folder, "run.json", running)


def _nulls(folder: Path) -> None:
    def empty(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: empty(value) for key, value in data.items()}
        return [empty(value) for value in data] if isinstance(data, list) else None

    for path in sorted(folder.rglob("*.json")):
        edit(folder, path.relative_to(folder).as_posix(), empty)


def _not_measured(folder: Path) -> None:
    def forget(accuracy: dict[str, Any]) -> None:
        for side in ("reference", "artefact"):
            accuracy[side]["tasks"]["pose"] = dict.fromkeys(BEFORE["pose"])
            accuracy[side]["notes"] = {"pose": "no face with labelled pose"}
            accuracy[side]["data"] = "calib_data/faces/val (synthetic)"

    def open_gate(gates: dict[str, Any]) -> None:
        for row in gates["outcomes"]:
            if row["name"].startswith("tasks.pose"):
                row |= {"status": "not-measured", "measured": None, "detail": "no pose labels"}

    edit(folder, "accuracy.json", forget)
    edit(folder, "gates.json", open_gate)
    edit(folder, "run.json", lambda run: run.update(exit_code=8))


def _broken_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*.json")):
        content = path.read_text("utf-8")
        path.write_text(content[: len(content) // 2], "utf-8")
    for path in sorted((folder / "pictures").glob("*.after.png")):
        path.write_bytes(path.read_bytes()[:100])


def _only_run(folder: Path) -> None:
    for path in [*folder.rglob("*.json"), *folder.rglob("*.png")]:
        if path.name != "run.json":
            path.unlink()


#: name -> what is done to a complete run folder
VARIANTS: dict[str, Callable[[Path], None]] = {
    "complete": lambda folder: None,
    "failed-stage": _failed_stage,
    "interrupted": _interrupted,
    "nulls": _nulls,
    "not-measured": _not_measured,
    "broken-files": _broken_files,
    "only-run-json": _only_run,
    "no-run-json": lambda folder: (folder / "run.json").unlink(),
    "no-pictures": lambda folder: shutil.rmtree(folder / "pictures"),
}
#: limits that the invented figures do not keep
TIGHT_LIMITS = {
    "tasks": {"detection": {"max_relative_drop": 0.005, "min": 0.8}},
    "latency": {"p99_ms": 12.0, "ratio": 0.4},
    "cost": {"macs_ratio": 0.4},
}


def write_variant(folder: Path, variant: str) -> Path:
    """One of :data:`ALL_VARIANTS`: a complete run folder, or one with something wrong."""
    if variant == "gates-fail":
        return write_run(folder, TIGHT_LIMITS)
    if variant == "emulated":
        return write_run(folder, kind="emulated")
    if variant == "unstable":
        return write_run(folder, noisy=True)
    VARIANTS[variant](write_run(folder))
    return folder


ALL_VARIANTS = (*VARIANTS, "gates-fail", "emulated", "unstable")
