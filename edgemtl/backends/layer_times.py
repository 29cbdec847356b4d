"""What each layer of an artefact takes, told by the runtime's own profiler.

A runtime fuses, renames and reorders; each of its layers is led back to the nodes of the ONNX graph
that it came from. Profiling costs time itself, so these figures share out the latency and are no
measurement of it.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

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
    if not can_profile(artefact):
        return None
    profile = open_profile(artefact, options)
    for run in range(WARM_UP + RUNS):
        profile.run(images, counts=run >= WARM_UP)
    return profile.end()


def can_profile(artefact: Artefact) -> bool:
    """Whether its runtime has a profiler that we read."""
    return artefact.backend in _PROFILES and not artefact.files[0].endswith(".json")


def open_profile(artefact: Artefact, options: SessionOptions) -> Profile:
    """Load an artefact with its runtime's profiler on; several may be open and run in turns.

    Args:
        artefact: one of which :func:`can_profile` is true.
        options: as for measuring.

    Raises:
        StageFailed: the runtime failed.
    """
    with _told():
        return _PROFILES[artefact.backend](artefact, options)


class Profile(ABC):
    """An artefact that is loaded with the profiler on."""

    @final
    def run(self, images: NDArray[np.float32], counts: bool = True) -> None:
        """Run once; what does not count (after a pause, say) is left out of the figures.

        Raises:
            StageFailed: the runtime failed.
        """
        with _told():
            self._run(images, counts)

    @final
    def end(self, quantile: float = 0.5) -> tuple[LayerTime, ...]:
        """Time of every layer over the runs that count; not to be run again.

        Args:
            quantile: of the runs' times, in 0..1; the median by default. A lower one is less moved
                by what else the machine does.

        Raises:
            StageFailed: the runtime failed.
        """
        with _told():
            return self._end(quantile)

    @abstractmethod
    def _run(self, images: NDArray[np.float32], counts: bool) -> None: ...

    @abstractmethod
    def _end(self, quantile: float) -> tuple[LayerTime, ...]: ...


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a runtime raises, as a sentence."""
    try:
        yield
    except StageFailed:
        raise
    except Exception as error:  # runtimes raise many kinds
        raise StageFailed(f"the layers could not be timed: {error}") from error


class _OnnxRuntimeProfile(Profile):
    """ONNX Runtime writes every event of a session's life into one file, in order."""

    def __init__(self, artefact: Artefact, options: SessionOptions) -> None:
        import onnxruntime

        self._path = artefact.folder / artefact.files[0]
        self._folder = tempfile.TemporaryDirectory(prefix="edgemtl-")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(self._folder.name) / "profile")
        self._session = onnxruntime.InferenceSession(
            str(self._path), settings, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._counts: list[bool] = []

    def _run(self, images: NDArray[np.float32], counts: bool) -> None:
        self._session.run(None, {self._input: images})
        self._counts.append(counts)

    def _end(self, quantile: float) -> tuple[LayerTime, ...]:
        import onnx

        with self._folder:
            events = json.loads(Path(self._session.end_profiling()).read_text("utf-8"))
        taken: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_ORT_SUFFIX):
                key = (event["name"].removesuffix(_ORT_SUFFIX), str(event["args"]["op_name"]))
                taken.setdefault(key, []).append(float(event["dur"]) / 1e3)
        graph = _Graph(onnx.load(self._path).graph)
        return tuple(
            LayerTime(
                layer,
                kind,
                graph.behind(layer, kind),
                float(np.quantile(self._counted(ms), quantile)),
            )
            for (layer, kind), ms in taken.items()
        )

    def _counted(self, ms: list[float]) -> list[float]:
        """Times of the runs that count; all, where a layer did not run once in each."""
        if len(ms) != len(self._counts):
            return ms
        return [one for one, counts in zip(ms, self._counts, strict=True) if counts] or ms


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


class _OpenVinoProfile(Profile):
    """OpenVINO tells of every inference what its layers took."""

    def __init__(self, artefact: Artefact, options: SessionOptions) -> None:
        from edgemtl.backends.openvino import import_openvino, session_settings

        openvino = import_openvino()
        device = str(artefact.facts.get("device", "CPU"))
        config = {**session_settings(device, options), "PERF_COUNT": "YES"}
        core = openvino.Core()
        model = core.read_model(str(artefact.folder / artefact.files[0]))
        self._known = {op.get_friendly_name() for op in model.get_ordered_ops()}
        self._compiled = core.compile_model(model, device, config)
        self._request = self._compiled.create_infer_request()
        self._taken: dict[str, list[float]] = {}
        self._kinds: dict[str, str] = {}

    def _run(self, images: NDArray[np.float32], counts: bool) -> None:
        self._request.infer([images])
        for layer in self._request.get_profiling_info() if counts else ():
            ms = layer.real_time.total_seconds() * 1e3
            if ms > 0:
                self._taken.setdefault(layer.node_name, []).append(ms)
                self._kinds[layer.node_name] = layer.node_type

    def _end(self, quantile: float) -> tuple[LayerTime, ...]:
        origins = {
            op.get_friendly_name(): str(op.get_rt_info()["originalLayersNames"].astype(str))
            for op in self._compiled.get_runtime_model().get_ordered_ops()
            if "originalLayersNames" in op.get_rt_info()
        }
        return tuple(
            LayerTime(
                name,
                self._kinds[name],
                _origins(origins.get(name, ""), self._known),
                float(np.quantile(ms, quantile)),
            )
            for name, ms in self._taken.items()
        )


def _origins(names: str, known: set[str]) -> tuple[str, ...]:
    """OpenVINO's list of original layers, without those that its conversions added."""
    plain = (name.removesuffix("/WithoutBiases") for name in names.split(",") if name)
    return tuple(dict.fromkeys(name for name in plain if name in known and "#" not in name))


_PROFILES: Mapping[str, Callable[[Artefact, SessionOptions], Profile]] = {
    "onnxruntime": _OnnxRuntimeProfile,
    "openvino": _OpenVinoProfile,
}
