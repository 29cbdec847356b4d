"""A FAKE ``trtexec``: the flags of 8.5, 8.6, 10.3 and 11.4 as their help lists them.

It refuses a flag that its version lacks, as the real one does, keeps a record of its calls, and
computes by ONNX Runtime. It proves which calls are made; it says nothing about TensorRT.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

COMMON = [
    *("onnx", "saveEngine", "loadEngine", "loadInputs", "exportOutput", "exportTimes"),
    *("iterations", "warmUp", "duration", "memPoolSize", "timingCacheFile", "noTF32", "help"),
]
FLAGS = {
    "8502": [*COMMON, "fp16", "int8", "workspace", "buildOnly"],
    "8602": [*COMMON, "fp16", "int8", "builderOptimizationLevel", "skipInference"],
    "100300": [
        *COMMON,
        *("fp16", "int8", "stronglyTyped", "builderOptimizationLevel", "skipInference"),
    ],
    "11.4.1.2": [*COMMON, "stronglyTyped", "builderOptimizationLevel", "skipInference"],
}
WARM_UP_RUNS = 3


def install(folder: Path, version: str, failing_builds: int = 0) -> Path:
    """Write the program.

    Args:
        folder: where it and the record of its calls (``calls.json``) go.
        version: a key of ``FLAGS``.
        failing_builds: the first so many builds fail, as when memory is short.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    here = str(Path(__file__).parent)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {here!r})\n"
        f"import fake_trtexec\n"
        f"sys.exit(fake_trtexec.main({version!r}, {failing_builds}, {str(folder)!r}))\n",
        "utf-8",
    )
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[list[str]]:
    """The flags of every call so far but those for help."""
    kept = folder / "calls.json"
    found: list[list[str]] = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    return found


def main(version: str, failing_builds: int, folder: str) -> int:
    """What the program does."""
    flags = sys.argv[1:]
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec {' '.join(flags)}")
    if "--help" in flags:
        for name in FLAGS[version]:
            print(f"  --{name}=<value>   said about it (default = none)")
        return 0
    earlier = calls(Path(folder))
    Path(folder, "calls.json").write_text(json.dumps([*earlier, flags]), "utf-8")
    given = dict(re.match(r"--(\w+)=?(.*)", flag).groups() for flag in flags)  # type: ignore[union-attr,misc]
    for name in given:
        if name not in FLAGS[version]:
            print(f"[11/23/2026-00:00:00] [E] Unknown option: --{name}")
            return 1
    if "onnx" in given:
        builds = sum(any(flag.startswith("--onnx=") for flag in call) for call in earlier)
        if builds < failing_builds:
            print("[11/23/2026-00:00:00] [E] out of memory")
            return 1
        Path(given["saveEngine"]).write_bytes(b"FAKE " + Path(given["onnx"]).read_bytes())
        return 0
    return _run(given)


def _run(given: dict[str, str]) -> int:
    import numpy as np
    import onnxruntime

    data = Path(given["loadEngine"]).read_bytes()
    if not data.startswith(b"FAKE "):
        print("[11/23/2026-00:00:00] [E] the engine is of another version")
        return 1
    session = onnxruntime.InferenceSession(data[5:], providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    name, place = given["loadInputs"].split(":", 1)
    images = np.fromfile(place, np.float32).reshape(feed.shape)
    outputs = session.run(None, {name: images})
    if "exportOutput" in given:
        told = [
            {
                "name": output.name,
                "dimensions": "x".join(map(str, value.shape)),
                "values": value.ravel().tolist(),
            }
            for output, value in zip(session.get_outputs(), outputs, strict=True)
        ]
        Path(given["exportOutput"]).write_text(json.dumps(told), "utf-8")
    if "exportTimes" in given:
        warm_up = float(given["warmUp"])
        starts = [warm_up * i / WARM_UP_RUNS for i in range(WARM_UP_RUNS)] if warm_up else []
        starts += [warm_up + i for i in range(int(given["iterations"]))]
        trace = [
            {"startComputeMs": start, "h2dMs": 0.25, "computeMs": 1.5, "d2hMs": 0.25}
            for start in starts
        ]
        Path(given["exportTimes"]).write_text(json.dumps(trace), "utf-8")
    return 0
