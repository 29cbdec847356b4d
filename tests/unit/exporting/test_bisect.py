"""Bisection names exactly the layer that was changed."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from exported_networks import Exported
from onnx import numpy_helper
from support.dense_family import build

from edgemtl.errors import StageFailed
from edgemtl.exporting.bisect import LAYER_TOLERANCE, bisect
from edgemtl.exporting.onnx_export import export_onnx


def perturbed(source: Path, node_name: str, target: Path) -> Path:
    """The same graph with one filter of one layer moved a little."""
    model = onnx.load(source)
    node = next(node for node in model.graph.node if node.name == node_name)
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[len(values) // 2] += 0.05
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, target)
    return target


def layers(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("reference", ["onnx", "torch"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_changed_layer_is_named(
    exported: Exported, reference: str, share: float, tmp_path: Path
) -> None:
    source = exported.simplified.path
    names = layers(source)
    name = names[int(share * len(names))]
    changed = perturbed(source, name, tmp_path / "changed.onnx")
    images = exported.network.example_input(seed=4).numpy()
    a = exported.exported.path if reference == "onnx" else exported.network
    found = bisect(a, changed, images)
    assert found.found
    assert (found.node, found.op) == (name, "Conv")
    assert found.module == exported.simplified.modules[name]
    assert found.difference is not None and found.difference.max_relative > LAYER_TOLERANCE
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("reference", ["onnx", "torch"])
def test_nothing_is_named_when_nothing_differs(exported: Exported, reference: str) -> None:
    images = exported.network.example_input(seed=4).numpy()
    a = exported.exported.path if reference == "onnx" else exported.network
    found = bisect(a, exported.simplified.path, images)
    assert not found.found and found.node == ""
    assert found.compared > len(layers(exported.simplified.path)) / 2


def test_a_changed_operator_without_weights_is_named(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.simplified.path)
    node = [node for node in model.graph.node if node.op_type == "Relu"][3]
    node.op_type = "Abs"
    onnx.save(model, tmp_path / "changed.onnx")
    images = exported.network.example_input(seed=4).numpy()
    for a in (exported.exported.path, exported.network):
        assert bisect(a, tmp_path / "changed.onnx", images).node == node.name


def test_graphs_without_a_common_layer_are_refused(exported: Exported, tmp_path: Path) -> None:
    other = onnx.load(exported.simplified.path)
    renamed = {o: f"other_{o}" for node in other.graph.node for o in node.output}
    for node in other.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in other.graph.output:
        value.name = renamed[value.name]
    onnx.save(other, tmp_path / "other.onnx")
    images = exported.network.example_input().numpy()
    with pytest.raises(StageFailed, match="no layer in common"):
        bisect(exported.simplified.path, tmp_path / "other.onnx", images)


def test_what_cannot_be_read_or_run_is_refused(tmp_path: Path) -> None:
    network = build()
    graph = export_onnx(network, tmp_path / "g.onnx", opset=17).path
    images = network.example_input().numpy()
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(StageFailed, match="not a readable ONNX file"):
        bisect(tmp_path / "no.onnx", graph, images)
    with pytest.raises(StageFailed, match="cannot run"):
        bisect(graph, graph, images[:, :, :-1])
