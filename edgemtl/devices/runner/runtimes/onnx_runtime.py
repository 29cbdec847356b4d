"""ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from . import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROVIDERS = {"CPU": "CPUExecutionProvider"}


class OnnxRuntimeSession(Session):
    """An ``onnxruntime.InferenceSession``."""

    runtime = "onnxruntime"

    def __init__(self, session: Any, version: str, outputs: Sequence[str]) -> None:
        super().__init__()
        self.version = version
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = list(outputs)
        self.facts = {"providers": list(session.get_providers())}

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`."""
        try:
            values = self._session.run(self._outputs, {self._input: images})
        # The exceptions of the runtime have no common documented base.
        except Exception as error:
            raise RunnerError(STAGE_FAILED, f"ONNX Runtime failed: {first_line(error)}") from error
        return {name: values[index] for index, name in enumerate(self._outputs)}


def first_line(error: Exception) -> str:
    """The first line of what a runtime says; the rest is its call stack."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load(
    model: str, device: str, threads: int, precision_hint: str, outputs: Sequence[str]
) -> Session:
    """Load an ONNX file; ``precision_hint`` changes nothing, it always computes as written."""
    # From 1.32 on it collects telemetry on Linux unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError(
            UNAVAILABLE,
            f"ONNX Runtime is not usable here: {error} (python -m pip install onnxruntime)",
        ) from error
    provider = PROVIDERS.get(device)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise RunnerError(UNAVAILABLE, f"ONNX Runtime has no device '{device}' here")
    options = onnxruntime.SessionOptions()
    # The settings of the product's own backend, so that both measure the same thing.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:
        raise RunnerError(
            STAGE_FAILED, f"ONNX Runtime cannot load the model: {first_line(error)}"
        ) from error
    return OnnxRuntimeSession(session, str(onnxruntime.__version__), outputs)
