"""OpenVINO's profiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.profile import LayerTime, Profile
from edgemtl.backends.types import Artefact


class OpenVinoProfile(Profile):
    """OpenVINO tells of every inference what its layers took."""

    def __init__(
        self, openvino: Any, artefact: Artefact, device: str, settings: Mapping[str, Any]
    ) -> None:
        core = openvino.Core()
        model = core.read_model(str(artefact.folder / artefact.files[0]))
        self._known = {op.get_friendly_name() for op in model.get_ordered_ops()}
        self._compiled = core.compile_model(model, device, {**settings, "PERF_COUNT": "YES"})
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
