"""OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError
from . import Session
from .onnx_runtime import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


#: the file of weights of several networks
SHARED_WEIGHTS = "weights.bin"


class OpenVinoSession(Session):
    """A compiled model with one inference request."""

    runtime = "openvino"

    def __init__(self, compiled: Any, version: str, ports: Mapping[str, Any]) -> None:
        super().__init__()
        self.version = version
        self._ports = dict(ports)
        self._request = compiled.create_infer_request()
        self.facts = {"devices": list(compiled.get_property("EXECUTION_DEVICES"))}

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`; the arrays are copies, the request's buffers are reused."""
        try:
            values = self._request.infer([images], share_inputs=True, share_outputs=False)
        except Exception as error:
            raise RunnerError(STAGE_FAILED, f"OpenVINO failed: {first_line(error)}") from error
        return {name: values[port] for name, port in self._ports.items()}


def load(
    model: str, device: str, threads: int, precision_hint: str, outputs: Sequence[str]
) -> Session:
    """Load an IR or ONNX file."""
    # Importing OpenVINO posts a usage event to a web service through this package, and does without
    # where it cannot be imported: a device must not call home because it is measured.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RunnerError(
            UNAVAILABLE, f"OpenVINO is not usable here: {error} (python -m pip install openvino)"
        ) from error
    core = openvino.Core()
    if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
        raise RunnerError(
            UNAVAILABLE,
            f"OpenVINO has no device '{device}' here (it sees {core.available_devices})",
        )
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision_hint == "f32" and not device.startswith("NPU"):
        # Left to itself OpenVINO takes bfloat16 where the processor has it; the NPU has only
        # float16 and refuses the property.
        config["INFERENCE_PRECISION_HINT"] = "f32"
    if threads and device.startswith("CPU"):
        config["INFERENCE_NUM_THREADS"] = threads
    shared = Path(model).with_name(SHARED_WEIGHTS)
    try:
        # Networks behind a router take their weights from one file.
        graph = core.read_model(model, str(shared)) if shared.is_file() else model
        compiled = core.compile_model(graph, device, config)
    except Exception as error:
        raise RunnerError(
            STAGE_FAILED, f"OpenVINO cannot load the model: {first_line(error)}"
        ) from error
    ports: dict[str, Any] = {}
    for name in outputs:
        found = [port for port in compiled.outputs if name in port.get_names()]
        if not found:
            raise RunnerError(STAGE_FAILED, f"the compiled model has no output '{name}'")
        ports[name] = found[0]
    return OpenVinoSession(compiled, str(openvino.__version__), ports)
