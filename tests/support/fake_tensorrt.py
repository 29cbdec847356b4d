"""A FAKE ``tensorrt`` module and CUDA runtime: which calls exist in 8.5, 8.6, 10.3 and 11.4.

It proves that the runner makes calls that each version has, in an order that works. It computes by
ONNX Runtime in host memory and says nothing about TensorRT's results or speed.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

VERSIONS = ("8.5.2.2", "8.6.2.3", "10.3.0.30", "11.4.1.2")
PLAN_MARK = b"FAKE PLAN "


def _flags(*names: str) -> Any:
    return SimpleNamespace(**{name: index for index, name in enumerate(names)})


def make(
    version: str, failing_builds: int = 0, refuses: str = "", workspaces: list[int] | None = None
) -> Any:
    """The fake module.

    Args:
        version: one of ``VERSIONS``.
        failing_builds: the first so many builds give None, as when memory is short.
        refuses: what the parser says against every graph; empty takes all.
        workspaces: filled with the workspace limit of each build.

    The list ``calls`` of the module records what was called.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.calls = calls = []
    trt.TensorIOMode = _flags("NONE", "INPUT", "OUTPUT")
    trt.MemoryPoolType = _flags("WORKSPACE")
    if major < 10:
        trt.NetworkDefinitionCreationFlag = _flags("EXPLICIT_BATCH", "EXPLICIT_PRECISION")
        trt.BuilderFlag = _flags("FP16", "INT8", "TF32")
    elif major < 11:
        trt.NetworkDefinitionCreationFlag = _flags("EXPLICIT_BATCH", "STRONGLY_TYPED")
        trt.BuilderFlag = _flags("FP16", "INT8", "TF32")
    else:
        trt.NetworkDefinitionCreationFlag = _flags("STRONGLY_TYPED")
        trt.BuilderFlag = _flags("TF32")
    left = [failing_builds]

    class ILogger:
        Severity = _flags("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

    class Cache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return b"timings"

    class Config:
        def __init__(self) -> None:
            self.workspace = 0
            if (major, minor) >= (8, 6):
                self.builder_optimization_level = 3

        def set_memory_pool_limit(self, pool: int, size: int) -> None:
            self.workspace = size

        def set_flag(self, flag: int) -> None:
            calls.append(("set_flag", flag))

        def clear_flag(self, flag: int) -> None:
            calls.append(("clear_flag", flag))

        def add_optimization_profile(self, profile: Any) -> int:
            calls.append(("profile", dict(profile)))
            return 0

        def create_timing_cache(self, data: bytes) -> Cache:
            calls.append(("timing_cache", data))
            return Cache(data)

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            return not ignore_mismatch

    class Shapes(dict):  # type: ignore[type-arg]
        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            self[name] = (tuple(low), tuple(best), tuple(high))

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            calls.append(("create_network", flags))
            return SimpleNamespace(onnx=b"")

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Shapes:
            return Shapes()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            calls.append(("build", getattr(config, "builder_optimization_level", None)))
            if workspaces is not None:
                workspaces.append(config.workspace)
            if left[0]:
                left[0] -= 1
                self.logger.log(ILogger.Severity.ERROR, "out of memory\nstack")
                return None
            return PLAN_MARK + bytes(network.onnx)

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network
            self.num_errors = 1 if refuses else 0

        def parse(self, data: bytes) -> bool:
            self.network.onnx = data
            return not refuses

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: refuses)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine
            self.addresses: dict[str, int] = {}

        def set_tensor_address(self, name: str, address: int) -> None:
            self.addresses[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            session = self.engine.session
            feed = session.get_inputs()[0]
            size = int(np.prod(feed.shape)) * 4
            images = np.frombuffer(ctypes.string_at(self.addresses[feed.name], size), np.float32)
            names = [output.name for output in session.get_outputs()]
            for name, value in zip(
                names, session.run(names, {feed.name: images.reshape(feed.shape)}), strict=True
            ):
                ctypes.memmove(self.addresses[name], value.ctypes.data, value.nbytes)
            return True

    class Engine:
        def __init__(self, onnx: bytes) -> None:
            import onnxruntime

            self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
            self._inputs = {value.name: value for value in self.session.get_inputs()}
            self._all = self._inputs | {v.name: v for v in self.session.get_outputs()}
            self.num_io_tensors = len(self._all)

        def get_tensor_name(self, index: int) -> str:
            return list(self._all)[index]

        def get_tensor_mode(self, name: str) -> int:
            modes = trt.TensorIOMode
            return int(modes.INPUT if name in self._inputs else modes.OUTPUT)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self._all[name].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            return SimpleNamespace(name="FLOAT")

        def create_execution_context(self) -> Context:
            return Context(self)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            calls.append(("deserialize", len(plan)))
            if not plan.startswith(PLAN_MARK):
                self.logger.log(ILogger.Severity.ERROR, "magic tag does not match")
                return None
            return Engine(plan[len(PLAN_MARK) :])

    ILogger.__init__ = lambda self: None  # type: ignore[method-assign]
    trt.ILogger, trt.Builder, trt.OnnxParser, trt.Runtime = ILogger, Builder, OnnxParser, Runtime
    return trt


class FakeCuda:
    """Host memory under the names of the CUDA runtime; time is a counter."""

    def __init__(self, capability: str = "8.7") -> None:
        self._capability = capability
        self._kept: dict[int, Any] = {}
        self._events: dict[int, float] = {}
        self._now = 0.0

    def version(self) -> int:
        return 12060

    def capability(self) -> str:
        return self._capability

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self._kept[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def release(self, address: int) -> None:
        del self._kept[address]

    def stream(self) -> int:
        return 1

    def event(self) -> int:
        self._events[len(self._events)] = 0.0
        return len(self._events) - 1

    def record(self, event: int, stream: int) -> None:
        self._now += 0.25
        self._events[event] = self._now

    def elapsed_ms(self, first: int, second: int) -> float:
        return self._events[second] - self._events[first]

    def to_device(self, address: int, host: int, size: int, stream: int) -> None:
        ctypes.memmove(address, host, size)

    def to_host(self, host: int, address: int, size: int, stream: int) -> None:
        ctypes.memmove(host, address, size)

    def wait(self, stream: int) -> None:
        """Nothing is ever under way."""
