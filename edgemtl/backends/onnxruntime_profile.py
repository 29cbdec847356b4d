"""ONNX Runtime's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.profile import LayerTime, Profile
from edgemtl.backends.types import Artefact, SessionOptions

_SUFFIX = "_kernel_time"
#: what ONNX Runtime puts behind a name when it changes a layout or fuses
_MARKS = ("_nchwc", "_nhwc", "_quant", "_fused", "_bias", "_token")
#: nodes that a fused layer may reach back over until its own operator is found
_REACH = 6


class OnnxRuntimeProfile(Profile):
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
            if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
                key = (event["name"].removesuffix(_SUFFIX), str(event["args"]["op_name"]))
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
            shorter = next((name[: name.rindex(m)] for m in _MARKS if m in name), None)
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
