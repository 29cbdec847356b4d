"""Targets with TensorRT: Jetson boards, and desktop GPUs by TensorRT-RTX.

An engine is built on the device. What leaves this machine is the ONNX graph that the device's
TensorRT version takes, with its shapes; what is checked here is said to be checked here:

- the operator table (optable.py) of the device's version;
- parse and build by TensorRT-RTX where it is installed, as a proxy (proxy.py);
- accuracy, by ONNX Runtime on the very graph that is shipped. Latency is never measured here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend, first_line
from edgemtl.backends.session import Session
from edgemtl.backends.tensorrt import proxy
from edgemtl.backends.tensorrt.lowering import lower
from edgemtl.backends.tensorrt.optable import (
    ONLY_ON_DEVICE,
    REWRITTEN,
    device_only,
    table_problems,
)
from edgemtl.backends.tensorrt.settings import options_of
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.errors import InputRefused, StageFailed
from edgemtl.files import read_json, sha256_file, write_atomically, write_json
from edgemtl.targets import Target

MODEL_FILE, PROFILE_FILE, PLAN_FILE = "model.onnx", "profile.json", "model.plan"
#: what runs an artefact on this machine
PROXY = "ONNX Runtime on the same graph (proxy: not TensorRT, no latency)"
#: GPU that the proxy plans for on behalf of a Jetson (the same generation as Orin's)
PROXY_DEVICE = "SM86"


class ProxySession(Session):
    """The graph that is shipped, run by ONNX Runtime: right for accuracy, wrong for latency.

    Args:
        inner: of ONNX Runtime.
        extra: outputs that are no task's own and are not shown.
    """

    kind: ClassVar[str] = "proxy"

    def __init__(self, inner: Session, extra: Collection[str] = ()) -> None:
        shown = tuple(name for name in inner.outputs if name not in extra)
        super().__init__(inner.input_shape, shown)
        self._inner = inner

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        answers = self._inner.run(images)
        return {name: answers[name] for name in self.outputs}

    def close(self) -> None:
        self._inner.close()


class TensorRtBackend(Backend):
    """Boards that build the engine themselves. See the module."""

    name: ClassVar[str] = "tensorrt"
    capabilities: ClassVar[Capabilities] = Capabilities(graph_nms=True, runner="tensorrt_rt")

    def __init__(self) -> None:
        self._proxied: dict[tuple[str, str], list[Problem]] = {}

    def availability_impl(self) -> Availability:
        state = OnnxRuntimeBackend().availability()
        if not state.ok:
            return state
        version = proxy.installed_version()
        checked = f"TensorRT-RTX {version}" if version else "no TensorRT-RTX"
        return Availability(True, f"proxy: ONNX Runtime {state.version}, {checked}")

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        options = options_of(target)
        try:
            model = _read(onnx_path)
        except StageFailed as error:
            return [Problem("", "", error.message, "export the network again")]
        known = [
            Problem("", "", reason, "build on the device to be sure", fatal=False)
            for reason in (options.between,)
            if reason
        ]
        found = table_problems(model, options.version)
        if any(problem.fatal for problem in found):
            return known + found
        lower(model, options.version)
        if options.nms == "graph":
            from edgemtl.backends.tensorrt.suppression import add_suppression

            try:
                add_suppression(model)
            except StageFailed as error:
                return [
                    *known,
                    *found,
                    Problem("", "", error.message, error.hint or "leave it to the host"),
                ]
        # What is rewritten was told above; the lowered graph says what is left.
        rewritten = [problem for problem in found if problem.op in REWRITTEN]
        found = [*rewritten, *table_problems(model, options.version)]
        return known + found + self._proxy_problems(model, target)

    def _proxy_problems(self, model: Any, target: Target) -> list[Problem]:
        """What parse and build by TensorRT-RTX say of the lowered graph."""
        if proxy.installed_version() is None:
            return [
                Problem(
                    "",
                    "",
                    "parse and build were not tried: TensorRT-RTX is not installed",
                    "pip install 'edgemtl[tensorrt]' to try them without a GPU",
                    fatal=False,
                )
            ]
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            path = Path(folder) / MODEL_FILE
            path.write_bytes(model.SerializeToString(deterministic=True))
            # A compile asks twice, before and while compiling; a build takes seconds.
            key = (sha256_file(path), target.name)
            if key not in self._proxied:
                self._proxied[key] = self._ask_proxy(path, target)
        return list(self._proxied[key])

    def _ask_proxy(self, path: Path, target: Target) -> list[Problem]:
        device = target.device if target.device.startswith("SM") else PROXY_DEVICE
        try:
            result = proxy.run_proxy(path, device, options_of(target).workspace_mb)
        except StageFailed as error:
            advice = "build it on the device to be sure"
            return [Problem("", "", f"{proxy.LABEL}: {error.message}", advice, fatal=False)]
        only_there = device_only(_read(path))
        return [
            Problem(
                finding.node,
                finding.op,
                f"{proxy.LABEL}: {finding.reason}",
                "replace the layer, or build on the device to be sure",
                fatal=self._is_fatal(finding, only_there),
            )
            for finding in result.findings
        ]

    def _is_fatal(self, finding: proxy.Finding, only_there: Mapping[str, str]) -> bool:
        """Whether the proxy's refusal stops the compile; a board may have what it lacks."""
        if finding.op in only_there.values() or ONLY_ON_DEVICE.get(finding.op) == "":
            return False
        return not (only_there and not finding.node)

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        rewritten, suppressed = _write_lowered(onnx_path, target, folder)
        options = options_of(target)
        return Artefact(
            self.name,
            target.name,
            folder,
            (MODEL_FILE, PROFILE_FILE),
            facts={
                "device": target.device,
                "tensorrt": options.tensorrt,
                "jetpack": options.jetpack,
                "rewritten": rewritten,
                "suppressed": suppressed,
                "built_here": False,
                "checked_by": proxy.LABEL if proxy.installed_version() else "operator table",
                "runs_here_as": PROXY,
            },
        )

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        return _load_proxy(artefact, options)


class TensorRtRtxBackend(TensorRtBackend):
    """Desktop GPUs: the plan itself is built here, without a GPU."""

    name: ClassVar[str] = "tensorrt-rtx"
    extra: ClassVar[str] = "tensorrt"

    def availability_impl(self) -> Availability:
        if proxy.installed_version() is None:
            return Availability(False, reason=f"the package '{proxy.PACKAGE}' is missing")
        return super().availability_impl()

    def _is_fatal(self, finding: proxy.Finding, only_there: Mapping[str, str]) -> bool:
        return True  # here it is no proxy but the compiler itself

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        rewritten, suppressed = _write_lowered(onnx_path, target, folder)
        options = options_of(target)
        model, plan = folder / MODEL_FILE, folder / PLAN_FILE
        result = proxy.run_proxy(model, target.device, options.workspace_mb, plan)
        if not result.built:
            raise StageFailed(f"TensorRT-RTX cannot build: {result.findings[0].reason}")
        return Artefact(
            self.name,
            target.name,
            folder,
            (PLAN_FILE, MODEL_FILE, PROFILE_FILE),
            reproducible=False,
            facts={
                "device": target.device,
                "tensorrt_rtx": proxy.installed_version(),
                "rewritten": rewritten,
                "suppressed": suppressed,
                "built_here": True,
                "runs_here_as": PROXY,
            },
        )


def _read(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(path)
        onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # protobuf and onnx raise many kinds
        raise StageFailed(f"the ONNX file is not valid: {first_line(error)}") from error
    if not model.graph.output:
        raise StageFailed("the ONNX file is not valid: it has no output")
    return model


def _write_lowered(
    onnx_path: Path, target: Target, folder: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """Write the graph for the device and its shapes.

    Returns:
        How many nodes were rewritten, by operator, and the outputs added by the suppression inside
        the graph, by task.
    """
    from edgemtl.backends.tensorrt.suppression import add_suppression

    model, asked = _read(onnx_path), options_of(target)
    rewritten = lower(model, asked.version)
    suppressed = add_suppression(model) if asked.nms == "graph" else {}
    data = model.SerializeToString(deterministic=True)
    write_atomically(folder / MODEL_FILE, lambda stream: stream.write(data))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    options = options_of(target)
    write_json(
        folder / PROFILE_FILE,
        {
            "schema_version": 1,
            "inputs": {n: {"min": s, "opt": s, "max": s} for n, s in shapes.items()},
            "workspace_mb": options.workspace_mb,
            "tensorrt": options.tensorrt,
            **_precisions(model),
        },
    )
    return rewritten, suppressed


def _precisions(model: Any) -> dict[str, bool]:
    """Which narrow numbers the graph holds; TensorRT 8 has to be told."""
    from onnx import TensorProto

    half = any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i == TensorProto.FLOAT16
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    )
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return {"fp16": half, "int8": quantised}


def _load_proxy(artefact: Artefact, options: SessionOptions) -> Session:
    """ONNX Runtime on the shipped graph.

    Raises:
        StageFailed: a file of the artefact is missing or damaged.
    """
    for name in artefact.files:
        path = artefact.folder / name
        if not path.is_file() or not path.stat().st_size:
            raise StageFailed("TensorRT cannot load the model: missing or empty", where=name)
    try:
        shapes = read_json(artefact.folder / PROFILE_FILE)["inputs"]
        declared = next(iter(shapes.values()))["opt"]
    except (InputRefused, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise StageFailed(
            "TensorRT cannot load the model: its shapes are not readable", where=PROFILE_FILE
        ) from error
    from edgemtl.backends.tensorrt.suppression import suppressed_by

    opened = OnnxRuntimeBackend().load(
        Artefact("onnxruntime", artefact.target, artefact.folder, (MODEL_FILE,)), options
    )
    if list(opened.input_shape) != declared:
        raise StageFailed(
            f"TensorRT cannot load the model: its input is {list(opened.input_shape)}, its "
            f"profile says {declared}"
        )
    return ProxySession(opened, suppressed_by(artefact.facts).values())
