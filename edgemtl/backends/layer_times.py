"""What each layer of an artefact takes, told by the runtime's own profiler.

A runtime fuses, renames and reorders; each of its layers is led back to the nodes of the ONNX graph
that it came from. Profiling costs time itself, so these figures share out the latency and are no
measurement of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import StageFailed

#: runs before those that count, and those
WARM_UP, RUNS = 3, 20
_ORT_SUFFIX = "_kernel_time"
#: what ONNX Runtime puts behind a name when it changes a layout or fuses
_ORT_MARKS = ("_nchwc", "_nhwc", "_quant", "_fused", "_bias", "_token")
#: nodes that a fused layer may reach back over until its own operator is found
_REACH = 6


@dataclass(frozen=True)
class LayerTime:
    """One layer of the runtime.

    Attributes:
        layer: the runtime's name; kind: what it computes.
        nodes: ONNX nodes that it came from, the main one first; none for what the runtime added.
        ms: median over the runs.
    """

    layer: str
    kind: str
    nodes: tuple[str, ...]
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"nodes": list(self.nodes)}


def layer_times(
    artefact: Artefact, options: SessionOptions, images: NDArray[np.float32]
) -> tuple[LayerTime, ...] | None:
    """Profile an artefact; None where its runtime has no profiler that we read.

    Args:
        artefact: of ONNX Runtime or OpenVINO, a single graph.
        options: as for measuring.
        images: its input.

    Raises:
        StageFailed: the runtime failed.
    """
    profilers = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    profiler = profilers.get(artefact.backend)
    if profiler is None or artefact.files[0].endswith(".json"):
        return None
    try:
        return profiler(artefact, options, images)
    except StageFailed:
        raise
    except Exception as error:  # runtimes raise many kinds
        raise StageFailed(f"the layers could not be timed: {error}") from error


def _onnxruntime(
    artefact: Artefact, options: SessionOptions, images: NDArray[np.float32]
) -> tuple[LayerTime, ...]:
    import onnx
    import onnxruntime

    path = artefact.folder / artefact.files[0]
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), settings, providers=providers)
        name = session.get_inputs()[0].name
        for _ in range(WARM_UP + RUNS):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_ORT_SUFFIX):
            key = (event["name"].removesuffix(_ORT_SUFFIX), str(event["args"]["op_name"]))
            taken.setdefault(key, []).append(float(event["dur"]) / 1e3)
    graph = _Graph(onnx.load(path).graph)
    return tuple(
        LayerTime(layer, kind, graph.behind(layer, kind), float(np.median(ms[-RUNS:])))
        for (layer, kind), ms in taken.items()
    )


class _Graph:
    """Finds the nodes behind a name that the runtime made from a node's or a tensor's name."""

    def __init__(self, graph: Any) -> None:
        self._nodes: Mapping[str, Any] = {node.name: node for node in graph.node}
        self._makers: Mapping[str, Any] = {
            output: node for node in graph.node for output in node.output
        }

    def behind(self, layer: str, kind: str) -> tuple[str, ...]:
        name = layer
        while True:
            node = self._nodes.get(name) or self._makers.get(name)
            if node is not None:
                break
            shorter = next((name[: name.rindex(m)] for m in _ORT_MARKS if m in name), None)
            if shorter is None:
                return ()
            name = shorter
        # A fused layer bears the name of its last node: go back to the one that gave the operator.
        found = [node]
        while found[-1].op_type != kind and len(found) < _REACH:
            before = self._makers.get(found[-1].input[0]) if found[-1].input else None
            if before is None:
                break
            found.append(before)
        if found[-1].op_type != kind:
            return (str(node.name),)
        return tuple(str(n.name) for n in reversed(found))


def _openvino(
    artefact: Artefact, options: SessionOptions, images: NDArray[np.float32]
) -> tuple[LayerTime, ...]:
    from edgemtl.backends.openvino import import_openvino, session_settings

    openvino = import_openvino()
    device = str(artefact.facts.get("device", "CPU"))
    config = {**session_settings(device, options), "PERF_COUNT": "YES"}
    core = openvino.Core()
    model = core.read_model(str(artefact.folder / artefact.files[0]))
    known = {op.get_friendly_name() for op in model.get_ordered_ops()}
    compiled = core.compile_model(model, device, config)
    request = compiled.create_infer_request()
    taken: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for run in range(WARM_UP + RUNS):
        request.infer([images])
        for layer in request.get_profiling_info() if run >= WARM_UP else ():
            ms = layer.real_time.total_seconds() * 1e3
            if ms > 0:
                taken.setdefault(layer.node_name, []).append(ms)
                kinds[layer.node_name] = layer.node_type
    origins = {
        op.get_friendly_name(): str(op.get_rt_info()["originalLayersNames"].astype(str))
        for op in compiled.get_runtime_model().get_ordered_ops()
        if "originalLayersNames" in op.get_rt_info()
    }
    return tuple(
        LayerTime(name, kinds[name], _origins(origins.get(name, ""), known), float(np.median(ms)))
        for name, ms in taken.items()
    )


def _origins(names: str, known: set[str]) -> tuple[str, ...]:
    """OpenVINO's list of original layers, without those that its conversions added."""
    plain = (name.removesuffix("/WithoutBiases") for name in names.split(",") if name)
    return tuple(dict.fromkeys(name for name in plain if name in known and "#" not in name))
