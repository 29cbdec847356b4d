"""ONNX Runtime on the CPU: the artefact is the ONNX file itself, or its unsigned int8 form."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.int8 import is_int8, unsigned_activations
from edgemtl.backends.processor import processor_name
from edgemtl.backends.profile import Profile
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.backends.weightsfile import WEIGHTS_FILE, WeightsFile
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.targets import Target

MODEL_FILE = "model.onnx"
_PROVIDERS = {"CPU": "CPUExecutionProvider"}
#: how the runtime names what it cannot run
_REFUSALS = (
    re.compile(r"implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'"),
    re.compile(r"(?P<op>[\w.:]+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"Op \((?P<op>\w+)\)"),
)


def first_line(error: Exception) -> str:
    """The first line of a runtime's message, which may go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class OnnxRuntimeSession(Session):
    """A loaded ONNX file."""

    def __init__(self, session: Any, input_shape: tuple[int, ...]) -> None:
        super().__init__(input_shape, tuple(output.name for output in session.get_outputs()))
        self._session = session
        self._input = session.get_inputs()[0].name
        self._names = list(self.outputs)

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        try:
            values = self._session.run(self._names, {self._input: images})
        except Exception as error:  # the runtime raises many kinds
            raise StageFailed(f"ONNX Runtime failed: {first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend(Backend):
    """See the module."""

    name: ClassVar[str] = "onnxruntime"
    capabilities: ClassVar[Capabilities] = Capabilities(
        unsigned_int8=True,
        host_int8=True,
        shares_weights=True,
        profiles=True,
        task_files=True,
        runner="onnx_runtime",
        packages=("numpy", "onnxruntime"),
        replaces={"tvm": {"device": "CPU", "precisions": ("fp32", "int8"), "options": {}}},
    )

    def availability_impl(self) -> Availability:
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(False, reason=f"the package 'onnxruntime' is missing ({error})")
        return Availability(True, str(onnxruntime.__version__))

    def devices_impl(self) -> dict[str, str]:
        return {"CPU": processor_name()}

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        import onnx

        try:
            onnx.checker.check_model(str(onnx_path))
        except Exception as error:  # protobuf and onnx raise many kinds
            return [
                Problem(
                    "",
                    "",
                    f"the ONNX file is not valid: {first_line(error)}",
                    "export the network again",
                )
            ]
        try:
            _open(onnx_path, SessionOptions(threads=1))
        except StageFailed as error:
            found = next((m for p in _REFUSALS if (m := p.search(error.message))), None)
            parts = found.groupdict() if found else {}
            return [
                Problem(
                    parts.get("node", ""),
                    parts.get("op", ""),
                    error.message,
                    "export with another opset, or replace the layer",
                )
            ]
        return []

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        _provider(target.device)
        import onnx

        model = onnx.load(onnx_path)
        try:
            if is_int8(model):
                data = unsigned_activations(model).SerializeToString(deterministic=True)
                (folder / MODEL_FILE).write_bytes(data)
            else:
                shutil.copyfile(onnx_path, folder / MODEL_FILE)
        except OSError as error:
            raise StageFailed(f"cannot write the artefact: {error.strerror}") from error
        return Artefact(
            self.name,
            target.name,
            folder,
            (MODEL_FILE,),
            facts={"device": target.device, "onnxruntime": self.availability().version},
        )

    def gather_impl(self, artefacts: Mapping[str, Artefact], folder: Path) -> dict[str, Artefact]:
        import onnx

        weights, gathered = WeightsFile(), {}
        try:
            for name, artefact in artefacts.items():
                model = onnx.load(artefact.folder / artefact.files[0])
                weights.take(model.graph.initializer, WEIGHTS_FILE)
                graph = f"{name}.onnx"
                (folder / graph).write_bytes(model.SerializeToString(deterministic=True))
                gathered[name] = replace(artefact, folder=folder, files=(graph, WEIGHTS_FILE))
            (folder / WEIGHTS_FILE).write_bytes(weights.data)
        except OSError as error:
            raise StageFailed(f"cannot write the artefact: {error.strerror}") from error
        return gathered

    def profile_impl(self, artefact: Artefact, options: SessionOptions) -> Profile:
        from edgemtl.backends.onnxruntime_profile import OnnxRuntimeProfile

        return OnnxRuntimeProfile(artefact, options)

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        _provider(str(artefact.facts.get("device", "CPU")))
        session = _open(artefact.folder / artefact.files[0], options)
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise StageFailed(
                f"the graph must have one float32 input, it has {[i.name for i in inputs]}"
            )
        shape = inputs[0].shape
        if not all(isinstance(extent, int) for extent in shape):
            raise StageFailed(f"the graph's input shape {shape} is not static")
        return OnnxRuntimeSession(session, tuple(shape))


def _provider(device: str) -> str:
    if device not in _PROVIDERS:
        raise TargetUnavailable(
            f"backend 'onnxruntime' has no device '{device}'",
            hint=f"its devices: {', '.join(_PROVIDERS)}",
        )
    return _PROVIDERS[device]


def _open(path: Path, options: SessionOptions) -> Any:
    """An inference session, repeatable from run to run.

    Raises:
        StageFailed: the file is missing, corrupt, or not something the runtime can run.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.use_deterministic_compute = True
    settings.log_severity_level = 4  # what goes wrong is raised, and told once
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=[_PROVIDERS["CPU"]])
    except Exception as error:  # the runtime raises many kinds
        raise StageFailed(
            f"ONNX Runtime cannot load the model: {first_line(error)}", where=path.name
        ) from error
