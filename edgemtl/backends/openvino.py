"""OpenVINO: the artefact is its intermediate representation, ``model.xml`` and ``model.bin``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import ElementTree, parse

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.int8 import is_int8, unsigned_activations
from edgemtl.backends.openvinorefusals import first_telling, refusals
from edgemtl.backends.profile import Profile
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.backends.weightsfile import WEIGHTS_FILE as SHARED_FILE
from edgemtl.backends.weightsfile import WeightsFile
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.targets import Target

MODEL_FILE, WEIGHTS_FILE = "model.xml", "model.bin"


def import_openvino() -> Any:
    """The package ``openvino``, kept from calling home.

    Importing it (2026.4) posts a usage event to a web analytics service through the package
    ``openvino_telemetry``. Where that package cannot be imported OpenVINO does without, so it is
    made not importable here, for the life of the process.

    Raises:
        ImportError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _reason(error: Exception) -> str:
    """What went wrong, without OpenVINO's source positions; its messages have many lines."""
    return first_telling(str(error)) or type(error).__name__


def _refused(error: Exception, path: Path, version: str) -> Iterator[Problem]:
    """A problem for every node that the front end did not convert."""
    import onnx

    named, advice = f"OpenVINO {version}", "export with another opset, or replace the layer"
    try:
        nodes = list(onnx.load(path, load_external_data=False).graph.node)
    except Exception as unreadable:  # protobuf raises many kinds
        reason = f"the ONNX file is not valid: {unreadable}".splitlines()[0]
        yield Problem("", "", reason, "export the network again")
        return
    found = refusals(str(error))
    for refusal in found:
        op = refusal.op.rpartition(".")[2]
        meant = [
            node.name
            for node in nodes
            if node.op_type == op
            and (not refusal.node or refusal.node in (node.name, *node.output[:1]))
        ]
        reason = refusal.cause or f"it has no conversion of {refusal.op}"
        for name in meant or [refusal.node]:
            yield Problem(name, refusal.op, f"{named} does not convert it: {reason}", advice)
    if not found:
        yield Problem("", "", f"{named} cannot convert the graph: {_reason(error)}", advice)


def _convert_deform_conv(node: Any) -> Any:
    """ONNX DeformConv-19, which the ONNX front end lacks, as DeformableConvolution-8.

    With ``bilinear_interpolation_pad`` samples beyond the border fade to zero as ONNX defines.
    """
    import openvino.opset8 as ops

    inputs = [node.get_input(index) for index in range(node.get_input_size())]
    kernel_size = 2
    pads = list(node.get_attribute("pads", [0] * (2 * kernel_size)))
    result = ops.deformable_convolution(
        inputs[0],
        inputs[2],
        inputs[1],
        list(node.get_attribute("strides", [1] * kernel_size)),
        pads[:kernel_size],
        pads[kernel_size:],
        list(node.get_attribute("dilations", [1] * kernel_size)),
        mask=inputs[4] if len(inputs) > 4 else None,
        auto_pad="EXPLICIT",
        group=int(node.get_attribute("group", 1)),
        deformable_group=int(node.get_attribute("offset_group", 1)),
        bilinear_interpolation_pad=True,
    )
    if len(inputs) > 3:
        shape = ops.constant(np.array([1, -1, 1, 1], np.int64))
        result = ops.add(result, ops.reshape(inputs[3], shape, False))
    return result.outputs()


def _read_onnx(path: Path) -> tuple[Any, Any]:
    """(core, model); the core keeps the extension alive that the model was read with."""
    openvino = import_openvino()
    from openvino.frontend.onnx import ConversionExtension

    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _convert_deform_conv))
    return core, core.read_model(str(path))


def _name_by_position(model: Any, kept: Sequence[str]) -> None:
    """Give nodes that came from no ONNX node a name that does not depend on the process.

    OpenVINO numbers them with a counter that runs on from model to model.
    """
    known = set(kept)
    for position, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() not in known:
            node.set_friendly_name(f"{node.get_type_name()}#{position}")


def _pointing_into(weights: WeightsFile, artefact: Artefact) -> ElementTree[Any]:
    """The artefact's graph, whose constants lie in the other file, to which they are added."""
    content = (artefact.folder / WEIGHTS_FILE).read_bytes()
    parsed = parse(artefact.folder / artefact.files[0])
    for data in parsed.iter("data"):
        if {"offset", "size"} <= set(data.keys()):
            first, size = int(data.attrib["offset"]), int(data.attrib["size"])
            data.set("offset", str(weights.place(content[first : first + size])))
    return parsed


class OpenVinoSession(Session):
    """A compiled model with one inference request."""

    def __init__(self, compiled: Any, outputs: Sequence[str]) -> None:
        super().__init__(tuple(compiled.inputs[0].shape), tuple(outputs))
        ports = {name: port for port in compiled.outputs for name in port.get_names()}
        absent = [name for name in outputs if name not in ports]
        if absent:
            raise StageFailed(f"the compiled model has no output '{absent[0]}'")
        self._ports = {name: ports[name] for name in outputs}
        self._request = compiled.create_infer_request()

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        try:
            values = self._request.infer([images], share_inputs=True, share_outputs=False)
        except Exception as error:  # the runtime raises many kinds
            raise StageFailed(f"OpenVINO failed: {_reason(error)}") from error
        return {name: values[port] for name, port in self._ports.items()}

    def close(self) -> None:
        self._ports, self._request = {}, None


class OpenVinoBackend(Backend):
    """See the module."""

    name: ClassVar[str] = "openvino"
    capabilities: ClassVar[Capabilities] = Capabilities(
        unsigned_int8=True,
        host_int8=True,
        shares_weights=True,
        profiles=True,
        runner="open_vino",
        packages=("numpy", "openvino"),
    )
    extra: ClassVar[str] = "openvino"

    def availability_impl(self) -> Availability:
        try:
            openvino = import_openvino()
        except ImportError as error:
            return Availability(False, reason=f"the package 'openvino' is missing ({error})")
        return Availability(True, str(openvino.get_version()))

    def devices_impl(self) -> dict[str, str]:
        core = import_openvino().Core()
        return {
            name: str(core.get_property(name, "FULL_DEVICE_NAME")).strip()
            for name in core.available_devices
        }

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        self.require()
        try:
            _read_onnx(onnx_path)
        except Exception as error:  # the front end raises one kind for everything
            version = self.availability().version.partition("-")[0]
            return list(_refused(error, onnx_path, version))
        problems = []
        if target.options.get("precision_hint") == "auto":
            problems.append(
                Problem(
                    "",
                    "",
                    "the runtime may compute in bfloat16 or float16 where the device has it",
                    "set precision_hint = 'f32' to compute as written",
                    fatal=False,
                )
            )
        if target.device.startswith("NPU"):
            problems.append(
                Problem(
                    "",
                    "",
                    "the NPU computes float32 graphs in float16",
                    "judge it by the tasks' accuracy gates",
                    fatal=False,
                )
            )
        return problems

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        import onnx

        openvino = import_openvino()
        source = onnx.load(onnx_path)
        graph = source.graph
        outputs = [value.name for value in graph.output]
        names = [node.name for node in graph.node if node.name]
        names += [value.name for value in graph.input]
        try:
            if is_int8(source):
                unsigned = folder / "unsigned.onnx"
                unsigned.write_bytes(unsigned_activations(source).SerializeToString())
                _core, model = _read_onnx(unsigned)
                unsigned.unlink()
            else:
                _core, model = _read_onnx(onnx_path)
            _name_by_position(model, names)
            openvino.save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)
        except Exception as error:  # the runtime raises one kind for everything
            raise StageFailed(f"OpenVINO cannot write the model: {_reason(error)}") from error
        return Artefact(
            self.name,
            target.name,
            folder,
            (MODEL_FILE, WEIGHTS_FILE),
            facts={
                "device": target.device,
                "openvino": self.availability().version,
                "outputs": outputs,
            },
        )

    def gather_impl(self, artefacts: Mapping[str, Artefact], folder: Path) -> dict[str, Artefact]:
        weights, gathered = WeightsFile(), {}
        try:
            for name, artefact in artefacts.items():
                graph = f"{name}.xml"
                parsed = _pointing_into(weights, artefact)
                parsed.write(folder / graph, encoding="utf-8", xml_declaration=True)
                gathered[name] = replace(artefact, folder=folder, files=(graph, SHARED_FILE))
            (folder / SHARED_FILE).write_bytes(weights.data)
        except OSError as error:
            raise StageFailed(f"cannot write the artefact: {error.strerror}") from error
        return gathered

    def profile_impl(self, artefact: Artefact, options: SessionOptions) -> Profile:
        from edgemtl.backends.openvino_profile import OpenVinoProfile

        device = str(artefact.facts.get("device", "CPU"))
        settings = session_settings(device, options)
        return OpenVinoProfile(import_openvino(), artefact, device, settings)

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        device = str(artefact.facts.get("device", "CPU"))
        core = import_openvino().Core()
        present = core.available_devices
        if device not in present and device not in {name.split(".")[0] for name in present}:
            raise TargetUnavailable(
                f"OpenVINO has no device '{device}' here (it sees {', '.join(present) or 'none'})",
                hint="run the bundle on a machine that has it, with its driver installed",
            )
        graph: Any = str(artefact.folder / artefact.files[0])
        try:
            if SHARED_FILE in artefact.files:
                graph = core.read_model(graph, str(artefact.folder / SHARED_FILE))
            compiled = core.compile_model(graph, device, session_settings(device, options))
        except Exception as error:  # the runtime raises one kind for everything
            raise StageFailed(
                f"OpenVINO cannot load the model: {_reason(error)}", where=artefact.files[0]
            ) from error
        if len(compiled.inputs) != 1 or compiled.inputs[0].partial_shape.is_dynamic:
            raise StageFailed("the model must have one input of static shape")
        names = [str(n) for n in artefact.facts.get("outputs", ())]
        return OpenVinoSession(compiled, names or [p.get_any_name() for p in compiled.outputs])


def session_settings(device: str, options: SessionOptions) -> dict[str, Any]:
    """Properties of the compiled model."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    # Left to itself OpenVINO takes bfloat16 or float16 where the device has it; the NPU has only
    # that and refuses the property.
    if options.precision_hint == "f32" and not device.startswith("NPU"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if options.threads and device.startswith("CPU"):
        settings["INFERENCE_NUM_THREADS"] = options.threads
    return settings
