"""From ONNX to an engine on this device, kept for the next time.

Works with TensorRT 8.5 to 11: what differs between them is asked of the module, not assumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from ..facts import memory_available_bytes

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
    trt: Any,
    logger: Any,
    onnx: bytes,
    profile: Profile,
    full_precision: bool,
    identity: dict[str, Any],
) -> Built:
    """An engine for this device: the kept one when it was built here from this, else a new one.

    Args:
        trt: the module ``tensorrt``.
        logger: of TensorRT; ``logger.errors`` lists what went wrong.
        onnx: bytes of the graph.
        profile: shapes and limits.
        full_precision: forbid TF32.
        identity: GPU, TensorRT, CUDA and JetPack; an engine of any other is never loaded.

    Raises:
        RunnerError: too little memory, or TensorRT refuses the graph.
    """
    stamp = {**identity, "full_precision": full_precision, "profile": list(profile)}
    stamp["onnx_sha256"] = hashlib.sha256(onnx).hexdigest()
    text = json.dumps(stamp, sort_keys=True)
    folder = cache_folder()
    place = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.plan"
    kept = _kept(place, text)
    if kept is not None:
        return Built(kept, {"engine": "cached"})
    short = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    timings = folder / f"timing-{short}.cache"
    plan, level = _build(trt, logger, onnx, profile, full_precision, timings)
    _keep(place, plan)
    record = {"stamp": text, "plan_sha256": hashlib.sha256(plan).hexdigest()}
    _keep(place.with_suffix(".json"), json.dumps(record).encode())
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


def _keep(path: Path, data: bytes) -> None:
    """Write whole or not at all; a full disk costs the next build, nothing else."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _build(
    trt: Any, logger: Any, onnx: bytes, profile: Profile, full_precision: bool, timings: Path
) -> tuple[bytes, int | None]:
    """Build, with less each time it fails; returns the plan and the level (None before 8.6)."""
    available = memory_available_bytes()
    needed = BASE_BYTES + 3 * len(onnx)
    if available is not None and available < needed:
        raise RunnerError(
            UNAVAILABLE,
            f"{available >> 20} MB of memory are free, building needs {needed >> 20} MB: "
            "stop the desktop and other programs, or add swap",
        )
    workspace = profile.workspace_bytes
    if available is not None:
        workspace = min(workspace, available // 2)
    for level in LEVELS:
        plan, told = _try(trt, logger, onnx, profile, full_precision, timings, workspace, level)
        if plan is not None:
            return plan, told
        workspace //= 2
    reason = (logger.errors or ["TensorRT said no reason"])[-1]
    raise RunnerError(STAGE_FAILED, f"TensorRT cannot build the engine: {reason}")


def _try(
    trt: Any,
    logger: Any,
    onnx: bytes,
    profile: Profile,
    full_precision: bool,
    timings: Path,
    workspace: int,
    level: int,
) -> tuple[bytes | None, int | None]:
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        told = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        first = (told or logger.errors or ["no reason"])[0]
        raise RunnerError(STAGE_FAILED, f"TensorRT {trt.__version__} refuses the graph: {first}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    flags = trt.BuilderFlag
    if full_precision:
        config.clear_flag(flags.TF32)
    if major(trt) < 10:  # later versions read the precision from the graph
        for wanted, name in ((profile.fp16, "FP16"), (profile.int8, "INT8")):
            if wanted:
                config.set_flag(getattr(flags, name))
    told_level: int | None = None
    if hasattr(config, "builder_optimization_level"):  # since 8.6
        config.builder_optimization_level = told_level = level
    shapes = builder.create_optimization_profile()
    for name, asked in profile.inputs.items():
        shapes.set_shape(name, asked["min"], asked["opt"], asked["max"])
    config.add_optimization_profile(shapes)
    cache = _timing_cache(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None, told_level
    if cache is not None:
        _keep(timings, bytes(cache.serialize()))
    return bytes(plan), told_level


def _timing_cache(config: Any, path: Path) -> Any:
    """The timing cache of this device, as far as there is one; TensorRT checks it itself."""
    if not hasattr(config, "create_timing_cache"):
        return None
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def major(trt: Any) -> int:
    """Major version of TensorRT."""
    return int(str(trt.__version__).split(".")[0])


def _network_flags(trt: Any) -> int:
    """8 must be told that the batch is a dimension, 10 and later that types are as written."""
    kinds = trt.NetworkDefinitionCreationFlag
    if major(trt) < 10 and trt.__name__ == "tensorrt":
        return 1 << int(kinds.EXPLICIT_BATCH)
    return 1 << int(kinds.STRONGLY_TYPED)
