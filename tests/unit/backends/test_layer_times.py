"""The runtimes' profilers: every layer is led back to the nodes of the graph it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.dense_family import build

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.layer_times import LayerTime, layer_times
from edgemtl.backends.onnxruntime_profile import _Graph
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import StageFailed
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "dense.onnx"
    export_onnx(build(), path, opset=17)
    simplify(path, path)
    return path


def profile(graph: Path, target_name: str, folder: Path) -> tuple[LayerTime, ...]:
    target = targets.load(target_name)
    backend = registry.get(target.backend)
    if not (state := backend.availability()).ok:
        pytest.skip(f"backend '{target.backend}' is not available: {state.reason}")
    artefact = backend.compile(graph, target, folder)
    images = np.zeros((1, 3, 64, 96), np.float32)
    found = layer_times(artefact, SessionOptions(threads=1), images)
    assert found is not None
    return found


@pytest.mark.parametrize("target", ["cpu", "intel-cpu"])
def test_layers_lead_back_to_modules(graph: Path, target: str, tmp_path: Path) -> None:
    found = profile(graph, target, tmp_path)
    names = {node.name: node.op_type for node in onnx.load(graph).graph.node}
    assert all(layer.ms > 0 for layer in found)
    assert {node for layer in found for node in layer.nodes} <= set(names)
    kinds = ("Conv", "Convolution", "GroupConvolution")
    convolutions = [layer for layer in found if layer.kind in kinds]
    wanted = {name for name, op in names.items() if op == "Conv"}
    main = [layer.nodes[0] for layer in convolutions if layer.nodes]
    assert len(convolutions) == len(wanted) and len(main) == len(set(main))
    # OpenVINO loses the names of the layers that give the outputs.
    lost = set() if target == "cpu" else {name for name in wanted if ".out/" in name}
    assert wanted - lost <= set(main) <= wanted
    assert any(name.startswith("stem") for name in main)


def test_names_of_the_runtimes_own_lead_nowhere(graph: Path) -> None:
    nodes = _Graph(onnx.load(graph).graph)
    first = onnx.load(graph).graph.node[0]
    assert nodes.behind(first.name, first.op_type) == (first.name,)
    assert nodes.behind(f"{first.output[0]}_nchwc", first.op_type)[-1] == first.name
    assert nodes.behind("ReorderInput_token_7", "ReorderInput") == ()


def test_other_runtimes_are_not_asked_and_failures_are_told(tmp_path: Path) -> None:
    images = np.zeros((1, 3, 8, 8), np.float32)
    other = Artefact("tensorrt", "jetson", tmp_path, ("model.onnx",))
    assert layer_times(other, SessionOptions(), images) is None
    routed = Artefact("onnxruntime", "cpu", tmp_path, ("routing.json",))
    assert layer_times(routed, SessionOptions(), images) is None
    with pytest.raises(StageFailed, match="has no profiler"):
        registry.get("tensorrt").profile(other, SessionOptions())
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    broken = Artefact("onnxruntime", "cpu", tmp_path, ("model.onnx",))
    with pytest.raises(StageFailed, match="layers could not be timed"):
        layer_times(broken, SessionOptions(), images)
