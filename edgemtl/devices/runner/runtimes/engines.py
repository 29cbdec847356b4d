"""Engines: built once per device, kept, and never used on another one.

How an engine is built is the caller's (``tensorrt_build``: Python bindings, ``trtexec``: program).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from ..facts import memory_available_bytes

if TYPE_CHECKING:
    # subscripting at run time needs Python 3.9
    Build = Callable[[int, int, Path], "Attempt"]

#: tried in turn; the lower ones time fewer kernels and need less memory
LEVELS = (3, 1, 0)
#: what TensorRT itself and its kernels need beside weights and workspace, in bytes (a guess, kept
#: low: it only spares a build that cannot work)
BASE_BYTES = 400 << 20


class Profile(NamedTuple):
    """``profile.json`` of the artefact.

    Attributes:
        inputs: name -> {"min", "opt", "max"} shapes.
        workspace_bytes: most scratch memory for the builder.
        fp16, int8: whether the graph holds such numbers (TensorRT 8 must be told).
    """

    inputs: Mapping[str, Mapping[str, list[int]]]
    workspace_bytes: int
    fp16: bool
    int8: bool


class Attempt(NamedTuple):
    """One try to build.

    Attributes:
        plan: None when it failed.
        level: the builder's optimisation level; None where it has none to set (before 8.6).
        reason: why it failed.
    """

    plan: bytes | None
    level: int | None = None
    reason: str = ""


class Built(NamedTuple):
    """An engine and how it came to be.

    Attributes:
        plan: its bytes.
        facts: for the results: whether it was cached, the level it was built at.
    """

    plan: bytes
    facts: dict[str, Any]


def read_profile(path: Path) -> Profile:
    """Read ``profile.json``; the runner has checked its hash."""
    try:
        data = json.loads(path.read_text("utf-8"))
        inputs = {
            str(name): {key: [int(v) for v in shapes[key]] for key in ("min", "opt", "max")}
            for name, shapes in data["inputs"].items()
        }
        return Profile(
            inputs, int(data["workspace_mb"]) << 20, bool(data["fp16"]), bool(data["int8"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunnerError(STAGE_FAILED, f"profile.json is not readable ({error!r})") from error


def cache_folder() -> Path:
    """Where engines and timing caches are kept."""
    chosen = os.environ.get("EDGEMTL_ENGINES")
    return Path(chosen) if chosen else Path.home() / ".cache" / "edgemtl" / "engines"


def engine(
    onnx: bytes,
    profile: Profile,
    full_precision: bool,
    identity: Mapping[str, Any],
    build: Build,
) -> Built:
    """An engine for this device: the kept one when it was built here from this, else a new one.

    Args:
        onnx: bytes of the graph.
        profile: shapes and limits.
        full_precision: whether TF32 is forbidden.
        identity: GPU, TensorRT, CUDA and JetPack; an engine of any other is never loaded.
        build: tries once, with so many bytes of scratch memory, at that optimisation level, with
            that file as its timing cache.

    Raises:
        RunnerError: too little memory, or it cannot be built.
    """
    stamp = {**identity, "full_precision": full_precision, "profile": list(profile)}
    stamp["onnx_sha256"] = hashlib.sha256(onnx).hexdigest()
    text = json.dumps(stamp, sort_keys=True)
    folder = cache_folder()
    place = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.plan"
    kept = _kept(place, text)
    if kept is not None:
        return Built(kept, {"engine": "cached"})
    short = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
    plan, level = _with_less_each_time(
        len(onnx), profile.workspace_bytes, build, folder / f"timing-{short}.cache"
    )
    keep(place, plan)
    record = {"stamp": text, "plan_sha256": hashlib.sha256(plan).hexdigest()}
    keep(place.with_suffix(".json"), json.dumps(record).encode())
    return Built(plan, {"engine": "built", "builder_level": level})


def _kept(place: Path, stamp: str) -> bytes | None:
    """The kept engine, when its record says that it is this one and it is whole."""
    try:
        record = json.loads(place.with_suffix(".json").read_text("utf-8"))
        plan = place.read_bytes()
        whole = record["plan_sha256"] == hashlib.sha256(plan).hexdigest()
        return plan if whole and record["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, data: bytes) -> None:
    """Write whole or not at all; a full disk costs the next build, nothing else."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _with_less_each_time(
    size: int, workspace: int, build: Build, timings: Path
) -> tuple[bytes, int | None]:
    """Build, at a lower level and with less memory each time it fails."""
    available = memory_available_bytes()
    needed = BASE_BYTES + 3 * size
    if available is not None and available < needed:
        raise RunnerError(
            UNAVAILABLE,
            f"{available >> 20} MB of memory are free, building needs {needed >> 20} MB: "
            "stop the desktop and other programs, or add swap",
        )
    if available is not None:
        workspace = min(workspace, available // 2)
    with contextlib.suppress(OSError):
        timings.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    for level in LEVELS:
        attempt = build(workspace, level, timings)
        if attempt.plan is not None:
            return attempt.plan, attempt.level
        reason = attempt.reason
        workspace //= 2
    said = reason or "TensorRT said no reason"
    raise RunnerError(STAGE_FAILED, f"TensorRT cannot build the engine: {said}")
