"""TensorRT 8.5 to 11 with its own Python bindings, and TensorRT-RTX.

Only calls that all of these have are used to run; building is in ``tensorrt_build``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from ..facts import jetpack
from . import Session, cuda_runtime, engines, tensorrt_build, trtexec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: TensorRT's name of a type -> NumPy's
_NUMPY_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64"}


class TensorRtSession(Session):
    """An engine with its buffers.

    Args:
        trt: the module.
        cuda: the CUDA runtime.
        plan: bytes of the engine.
        outputs: names of the outputs to fetch.
    """

    def __init__(
        self, trt: Any, cuda: Any, logger: Any, plan: bytes, outputs: Sequence[str]
    ) -> None:
        super().__init__()
        import numpy as np

        self.runtime, self.version = str(trt.__name__), str(trt.__version__)
        self._cuda = cuda
        self._trt_runtime = trt.Runtime(logger)
        self._engine = self._trt_runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = (logger.errors or ["it said no reason"])[-1]
            raise RunnerError(STAGE_FAILED, f"TensorRT cannot load the engine: {reason}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise RunnerError(STAGE_FAILED, "TensorRT cannot run the engine: too little memory")
        self._stream = cuda.stream()
        self._host: dict[str, Any] = {}
        self._address: dict[str, int] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = trt.TensorIOMode.INPUT
        self._input = next(n for n in names if self._engine.get_tensor_mode(n) == reads)
        missing = [name for name in outputs if name not in names]
        if missing:
            raise RunnerError(STAGE_FAILED, f"the engine has no output '{missing[0]}'")
        for name in names:
            shape = tuple(self._engine.get_tensor_shape(name))
            kind = str(self._engine.get_tensor_dtype(name).name)
            if kind not in _NUMPY_TYPES or min(shape, default=1) < 0:
                raise RunnerError(STAGE_FAILED, f"tensor '{name}' is {kind} {shape}")
            self._host[name] = np.zeros(shape, _NUMPY_TYPES[kind])
            self._address[name] = cuda.allocate(self._host[name].nbytes)
            self._context.set_tensor_address(name, self._address[name])
        self._outputs = list(outputs)

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`; copies to and from the device are part of it."""
        self._fill(images)
        self._copy_in()
        self._execute()
        self._copy_out()
        self._cuda.wait(self._stream)
        return {name: self._host[name].astype("float32") for name in self._outputs}

    def stages(self, images: NDArray[np.float32], runs: int) -> Mapping[str, list[float]]:
        """Milliseconds on the device's own clock: copy in, compute, copy out."""
        cuda = self._cuda
        self._fill(images)
        events = [cuda.event() for _ in range(4)]
        steps = {"copy_in": self._copy_in, "compute": self._execute, "copy_out": self._copy_out}
        samples: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(runs):
            cuda.record(events[0], self._stream)
            for index, step in enumerate(steps.values(), 1):
                step()
                cuda.record(events[index], self._stream)
            cuda.wait(self._stream)
            for index, name in enumerate(steps):
                samples[name].append(cuda.elapsed_ms(events[index], events[index + 1]))
        return samples

    def close(self) -> None:
        """Free the buffers on the device."""
        for address in self._address.values():
            self._cuda.release(address)
        self._address = {}

    def _fill(self, images: NDArray[np.float32]) -> None:
        buffer = self._host[self._input]
        if images.shape != buffer.shape:
            raise RunnerError(
                STAGE_FAILED, f"the engine takes {buffer.shape}, the bundle has {images.shape}"
            )
        buffer[...] = images

    def _copy_in(self) -> None:
        buffer = self._host[self._input]
        address = self._address[self._input]
        self._cuda.to_device(address, buffer.ctypes.data, buffer.nbytes, self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RunnerError(STAGE_FAILED, "TensorRT could not run the engine")

    def _copy_out(self) -> None:
        for name in self._outputs:
            buffer = self._host[name]
            self._cuda.to_host(buffer.ctypes.data, self._address[name], buffer.nbytes, self._stream)


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        where = "it comes with JetPack" if name == "tensorrt" else f"python -m pip install {name}"
        raise RunnerError(
            UNAVAILABLE, f"the Python package '{name}' is not usable here: {error} ({where})"
        ) from error


def _logger(trt: Any) -> Any:
    """A logger that keeps errors in ``errors`` and prints nothing."""

    class Keeping(trt.ILogger):  # type: ignore[misc] # known only on the device
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.split("\n")[0])

    return Keeping()


def load(
    model: str, device: str, threads: int, precision_hint: str, outputs: Sequence[str]
) -> Session:
    """Load a plan of TensorRT-RTX, or build the engine of an ONNX file for this device.

    Where the Python bindings of TensorRT are missing, its program ``trtexec`` does it.
    ``threads`` changes nothing; ``precision_hint`` "f32" forbids TF32.
    """
    path = Path(model)
    full = precision_hint == "f32"
    if path.suffix == ".plan":
        return _load_plan(path, device, outputs)
    try:
        trt = _module("tensorrt")
    except RunnerError as error:
        tool = trtexec.find()
        if tool is None:
            raise RunnerError(error.code, f"{error.message}, and there is no trtexec") from error
        return _load_by_program(tool, path, full, outputs)
    cuda = cuda_runtime.load()
    logger = _logger(trt)
    identity = _identity(cuda, str(trt.__version__))
    onnx, profile = path.read_bytes(), engines.read_profile(path.with_name("profile.json"))

    def build(workspace: int, level: int, timings: Path) -> engines.Attempt:
        return tensorrt_build.attempt(trt, logger, onnx, profile, full, workspace, level, timings)

    plan, facts = engines.engine(onnx, profile, full, identity, build)
    session = TensorRtSession(trt, cuda, logger, plan, outputs)
    session.facts = {**identity, **facts, "built_by": "Python bindings"}
    return session


def _load_plan(path: Path, device: str, outputs: Sequence[str]) -> Session:
    trt = _module("tensorrt_rtx")
    cuda = cuda_runtime.load()
    identity = _identity(cuda, str(trt.__version__))
    found = "SM" + cuda.capability().replace(".", "")
    if device.startswith("SM") and found != device:
        raise RunnerError(
            UNAVAILABLE, f"the plan was built for {device}, the GPU here is {found}: compile for it"
        )
    session = TensorRtSession(trt, cuda, _logger(trt), path.read_bytes(), outputs)
    session.facts = {**identity, "engine": "shipped"}
    return session


def _load_by_program(tool: trtexec.Tool, path: Path, full: bool, outputs: Sequence[str]) -> Session:
    onnx, profile = path.read_bytes(), engines.read_profile(path.with_name("profile.json"))
    # Engines of both ways are the same; where they come from is told all the same.
    identity = {**_identity(cuda_runtime.load(), tool.version), "built_by": "trtexec"}

    def build(workspace: int, level: int, timings: Path) -> engines.Attempt:
        return trtexec.attempt(tool, path, profile, full, workspace, level, timings)

    plan, facts = engines.engine(onnx, profile, full, identity, build)
    session = trtexec.TrtexecSession(tool, plan, next(iter(profile.inputs)), outputs)
    session.facts = {**identity, **facts}
    return session


def _identity(cuda: cuda_runtime.Cuda, version: str) -> dict[str, Any]:
    return {
        "compute_capability": cuda.capability(),
        "tensorrt": version,
        "cuda": cuda.version(),
        "jetpack": jetpack(),
    }
