"""docs/precision.md from what tools/bench_precision.py measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from precision.libraries import LIBRARIES, TITLES

#: (heading, data set, task, figure, factor, digits, whether higher is better)
FIGURES = (
    ("AP", "faces_crowd", "detection", "ap_20px", 1, 4, True),
    ("NME %", "faces_landmarks", "landmarks", "nme_percent", 1, 3, False),
    ("pose MAE °", "faces_landmarks", "pose", "mae_deg", 1, 3, False),
)
RUNTIMES = {"intel-cpu": "OpenVINO", "cpu": "ONNX Runtime"}
NOTHING = "-"

INTRODUCTION = """\
# Precision

What int8 and fp16 cost and gain. How to use them: [lower precision](precision-howto.md).
The figures are from

    python tools/bench_precision.py all

from the checkpoints in `examples/` and real pictures; that command printed every figure.

- **Pictures.** [Calibration](glossary.md#calibration) (64 pictures) and the choice of layers that
  stay in float32 (600 other pictures, budget 1 % per task) use training splits only.
  Accuracy is measured on the validation splits, on the compiled artefact as it runs:
  `faces_crowd` gives AP of faces of 20 px and more;
  `faces_landmarks` gives NME in percent of the face's size, and the mean absolute error of the
  three angles against pseudo-labels.
- **Brackets.** The change relative to float32 on the same runtime; positive is better.
- **Speed-ups** are ratios of medians of interleaved runs with one thread, with their 95 % interval.
- **int8.** The file is written once for all runtimes: symmetric, zero point 0, scales per channel,
  float32 biases. On ONNX Runtime and OpenVINO the artefact reads tensors that cannot be negative as
  unsigned, which halves the rounding error (`edgemtl/backends/int8.py`). Weights are written for
  processors that add two products in 16 bits (`edgemtl/backends/reduce_range.py`).
- **fp16** halves the file. OpenVINO computes it in float32 on a CPU. ONNX Runtime has no float16
  convolution there, so it is left out.
"""


def page(work: Path, models: Sequence[str], precisions: Sequence[str], names: Sequence[str]) -> str:
    """The whole page; rows of what was not measured are left out."""
    found = [name for name in models if (work / name / "fp32.json").is_file()]
    parts = [INTRODUCTION]
    machine = _machine(work)
    if machine:
        parts.append(f"Machine: {machine}.\n")
    parts.append("## Accuracy, size and speed\n")
    parts.append("\n".join(_rows(work, found, precisions, names)) + "\n")
    parts += _headline(work, found)
    parts.append("## What stays in float32\n")
    for name in found:
        parts.append(_fallback(work / name, name))
    compared = [name for name in found if (work / name / "libraries").is_dir()]
    if compared:
        parts.append("## Which library\n")
        parts.append(LIBRARY_NOTE)
        for name in compared:
            parts.append(f"### {name}\n")
            parts.append("\n".join(_libraries(work / name)) + "\n")
    return "\n".join(parts)


LIBRARY_NOTE = """\
All libraries got the same network and the same 64 pictures, with min-max ranges; every layer is
quantised and nothing falls back. Accuracy is that of OpenVINO.

- `onnxruntime.quantization` rounds before each activation as well as after it.
- NNCF rounds at the same places as EdgeMTL, but makes activations unsigned, which TensorRT refuses.
  If asked for signed ones, it stops with an error.
"""


def _load(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


def _machine(work: Path) -> str:
    for path in sorted(work.rglob("*.speed.json")):
        data = _load(path)
        if data is not None:
            return f"{data['machine']['cpu']}, {data['machine']['cores']} cores"
    return ""


def _accuracy_cells(now: dict[str, Any] | None, before: dict[str, Any] | None) -> list[str]:
    cells = []
    for _, data_set, task, figure, factor, digits, higher in FIGURES:
        value = None if now is None else now["tasks"][data_set].get(task, {}).get(figure)
        old = None if before is None else before["tasks"][data_set].get(task, {}).get(figure)
        if value is None:
            cells.append(NOTHING)
            continue
        text = f"{value * factor:.{digits}f}"
        if old and now is not before:
            change = (value - old) / abs(old) * (1 if higher else -1)
            text += f" ({change:+.2%})".replace("%", " %")
        cells.append(text)
    return cells


def _speed_cell(data: dict[str, Any] | None) -> str:
    if data is None:
        return NOTHING
    ratio = data["speedup"]
    text = f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return text if ratio["stable"] else f"{text}, unstable"


def _rows(
    work: Path, models: Sequence[str], precisions: Sequence[str], names: Sequence[str]
) -> Iterator[str]:
    headings = ["network", "precision", "runtime", *(row[0] for row in FIGURES)]
    headings += ["file MB", "of fp32", "speed-up", "median ms"]
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for model in models:
        for precision in precisions:
            facts = _load(work / model / f"{precision}.json")
            for target in names:
                now = _load(work / model / f"{precision}.{target}.accuracy.json")
                if facts is None or now is None:
                    continue
                before = _load(work / model / f"fp32.{target}.accuracy.json")
                speed = _load(work / model / f"{precision}.{target}.speed.json")
                size, whole = facts["size_after"], facts["size_before"]
                cells = [model, precision, RUNTIMES[target]]
                cells += _accuracy_cells(now, now if precision == "fp32" else before)
                cells += [f"{size / 1e6:.2f}", f"{size / whole:.3f}x"]
                cells += [_speed_cell(speed), _median(work / model, precision, target)]
                yield f"| {' | '.join(cells)} |"


def _median(folder: Path, precision: str, target: str) -> str:
    """Of the row's own runs; those of fp32 come from its comparison with int8."""
    own = "int8" if precision == "fp32" else precision
    speed = _load(folder / f"{own}.{target}.speed.json")
    if speed is None:
        return NOTHING
    return f"{speed['slow_ms' if precision == 'fp32' else 'fast_ms']['p50_ms']:.2f}"


def _headline(work: Path, models: Sequence[str]) -> Iterator[str]:
    for small in models:
        for large in models:
            data = _load(work / small / f"int8.intel-cpu.{large}.speed.json")
            if data is not None:
                yield f"`{small}` in int8 against `{large}` in fp32 on OpenVINO: " + (
                    f"{_speed_cell(data)}.\n"
                )


def _fallback(folder: Path, name: str) -> str:
    data = _load(folder / "int8.json")
    if data is None:
        return f"`{name}`: not quantised.\n"
    layers, stay = len(data["layers"]), data["kept"]
    lines = [
        f"`{name}`: {len(stay)} of {layers + len(stay)} layers, found with "
        f"{data['evaluations']} evaluations on {data['judge_images']} pictures, "
        f"{data['seconds']:.0f} s in all.\n"
    ]
    if stay:
        tasks = list(data["tasks"])
        lines.append(f"| region | {' | '.join(tasks)} | stays |")
        lines.append("|---|" + "---|" * len(tasks) + "---|")
        for row in data["culprits"][: max(5, len(stay) + 2)]:
            cells = [f"{row['costs'][task]:.0%}".replace("%", " %") for task in tasks]
            mark = "yes" if row["kept"] else ""
            lines.append(f"| `{row['region']}` | {' | '.join(cells)} | {mark} |")
        lines.append(
            "\nEach region was quantised alone. A share is the region's part of the sum of these "
            "costs, for that task.\n"
        )
    return "\n".join(lines)


def _libraries(folder: Path) -> Iterator[str]:
    headings = ["by", *(row[0] for row in FIGURES), "file MB", "OpenVINO", "ONNX Runtime"]
    headings += ["seconds", "TensorRT 8.5"]
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    before = _load(folder / "fp32.intel-cpu.accuracy.json")
    for library in LIBRARIES:
        facts = _load(folder / "libraries" / f"{library}.json")
        if facts is None:
            yield f"| {TITLES[library]} | " + " | ".join([NOTHING] * (len(headings) - 1)) + " |"
            continue
        now = _load(folder / "libraries" / f"{library}.intel-cpu.accuracy.json")
        cells = [TITLES[library], *_accuracy_cells(now, before), f"{facts['size'] / 1e6:.2f}"]
        for target in ("intel-cpu", "cpu"):
            # The float network lies one folder up, so its name is part of the file's.
            speed = folder / "libraries" / f"{library}.{target}.{folder.name}.speed.json"
            cells.append(_speed_cell(_load(speed)))
        refused = "; ".join(facts["tensorrt"])
        cells += [f"{facts['seconds']:.0f}", f"refused: {refused}" if refused else "reads it"]
        yield f"| {' | '.join(cells)} |"
