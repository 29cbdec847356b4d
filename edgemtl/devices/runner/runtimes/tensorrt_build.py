"""Building an engine with TensorRT's own Python bindings.

Works with TensorRT 8.5 to 11: what differs between them is asked of the module, not assumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import STAGE_FAILED, RunnerError
from .engines import Attempt, Profile, keep


def attempt(
    trt: Any,
    logger: Any,
    onnx: bytes,
    profile: Profile,
    full_precision: bool,
    workspace: int,
    level: int,
    timings: Path,
) -> Attempt:
    """Parse and build once.

    Args:
        trt: the module ``tensorrt``.
        logger: of TensorRT; ``logger.errors`` lists what went wrong.
        onnx: bytes of the graph.
        profile: shapes and limits.
        full_precision: forbid TF32.
        workspace: most scratch memory, in bytes.
        level: optimisation level, where the version has levels.
        timings: file of the timing cache.

    Raises:
        RunnerError: the parser refuses the graph, which less memory would not help.
    """
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
        return Attempt(None, told_level, (logger.errors or [""])[-1])
    if cache is not None:
        keep(timings, bytes(cache.serialize()))
    return Attempt(bytes(plan), told_level)


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
