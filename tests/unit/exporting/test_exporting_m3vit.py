"""Experts in exported graphs: all lowerings, in two runtimes, on pictures not traced."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from support.m3vit import tiny
from support.matrix import only

from edgemtl.backends.openvino import import_openvino
from edgemtl.compress.quantize.layers import find_layers
from edgemtl.exporting.cost import count_cost
from edgemtl.exporting.module_cost import module_costs
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify
from edgemtl.models.m3vit.network import OVERFLOW, M3ViT

Answers = dict[str, NDArray[np.float32]]


def exported(network: M3ViT, folder: Path, tasks: list[str] | None = None) -> Path:
    result = export_onnx(network, folder / "raw.onnx", opset=17, tasks=tasks)
    assert result.notes == ()
    return result.path


def in_onnxruntime(path: Path, images: NDArray[np.float32]) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def in_openvino(path: Path, images: NDArray[np.float32]) -> Answers:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    core = import_openvino().Core()
    model = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = model(images)
    # several names may mean the same tensor
    return {name: np.array(found[output]) for output in model.outputs for name in output.names}


LOWERINGS = ("gather", "sorted", "static", "dense")
GATINGS = ("per_task", "task_conditioned", "single")
#: every lowering and every gating at least once
KEPT = [*((one, "per_task") for one in LOWERINGS), *(("sorted", one) for one in GATINGS[1:])]


@pytest.mark.parametrize(("lowering", "gating"), only(KEPT, itertools.product(LOWERINGS, GATINGS)))
def test_every_lowering_agrees_with_the_dense_reference_in_torch(
    lowering: Any, gating: str, tmp_path: Path
) -> None:
    network = tiny(gating=gating, depth=2, experts=4, lowering=lowering)
    path = exported(network, tmp_path, ["rooms", "distance"])
    network.set_lowering("dense")
    for run, seed in ((in_onnxruntime, 1), (in_onnxruntime, 2), (in_openvino, 3)):
        images = network.example_input(seed=seed)
        with torch.no_grad():
            reference = network(images, ["rooms", "distance"])
        found = run(path, images.numpy())
        for name, wanted in reference.items():
            np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_an_expert_that_the_traced_image_does_not_use_is_in_the_graph(tmp_path: Path) -> None:
    network = tiny(depth=2)
    traced = network.expert_use(network.example_input())[0].loads["distance"]
    idle = [int(e) for e in (traced == 0).nonzero()]
    assert idle, "choose another seed: the traced picture uses all experts"
    other = next(
        seed
        for seed in range(1, 200)
        if int(network.expert_use(network.example_input(seed=seed))[0].loads["distance"][idle[0]])
        > 0
    )
    path = exported(network, tmp_path, ["distance"])
    images = network.example_input(seed=other)
    network.set_lowering("dense")
    with torch.no_grad():
        wanted = network(images, ["distance"])["distance.depth"].numpy()
    for run in (in_onnxruntime, in_openvino):
        found = run(path, images.numpy())["distance.depth"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropped", [False, True])
def test_queues_of_a_length_each_are_the_graphs_products(dropped: bool, tmp_path: Path) -> None:
    """Tasks in the same queues: exact where these suffice, and less work than equal lengths."""
    network, tasks = tiny(experts=5), ["rooms", "distance"]
    if dropped:
        network = network.keeping_experts([[0, 1, 2, 4], [0, 2, 3, 4]])
    images = network.example_input(seed=1)
    kept = [mixture.experts.kept for mixture in network.backbone.mixtures()]
    lengths = [
        [max(1, int(use.queues[expert])) for expert in experts]
        for use, experts in zip(network.expert_use(images, tasks), kept, strict=True)
    ]
    network.set_lowering("static", lengths)
    with torch.no_grad():
        wanted = network(images, tasks)
    simple = simplify(exported(network, tmp_path, tasks), tmp_path / "own.onnx").path
    for run in (in_onnxruntime, in_openvino):
        found = run(simple, images.numpy())
        assert bool((found[OVERFLOW] > 0).all()) == dropped
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-5)
    if not dropped:
        network.set_lowering("dense")
        with torch.no_grad():
            wanted = network(images, tasks)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-5)
    network.set_lowering("static", [[max(layer)] * len(layer) for layer in lengths])
    equal = simplify(exported(network, tmp_path, tasks), tmp_path / "equal.onnx").path
    saved = sum(len(layer) * max(layer) - sum(layer) for layer in lengths)
    each = 2 * math.prod(network.backbone.mixtures()[0].experts.weight_in.shape[1:])
    assert saved > 0 and count_cost(equal).macs - count_cost(simple).macs == saved * each


def test_an_overflow_is_told_by_the_exported_graph(tmp_path: Path) -> None:
    network = tiny(depth=2)
    images = network.example_input(seed=1)
    loads = [use.loads for use in network.expert_use(images, ["distance"])]
    network.set_lowering("static", int(loads[0]["distance"].max()) - 1)
    with torch.no_grad():
        wanted = network(images, ["distance"])
    assert float(wanted[OVERFLOW]) > 0
    path = exported(network, tmp_path, ["distance"])
    for run in (in_onnxruntime, in_openvino):
        found = run(path, images.numpy())
        assert found[OVERFLOW].tolist() == wanted[OVERFLOW].tolist()
        answer = wanted["distance.depth"].numpy()
        np.testing.assert_allclose(found["distance.depth"], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lowering", ["gather", "sorted", "static"])
def test_a_simplified_graph_answers_the_same(lowering: Any, tmp_path: Path) -> None:
    network = tiny(depth=2, experts=4, lowering=lowering)
    if lowering == "static":
        network.set_lowering("static", 8)
    raw = exported(network, tmp_path, ["distance"])
    simplify(raw, tmp_path / "net.onnx")
    images = network.example_input(seed=5).numpy()
    wanted = in_onnxruntime(raw, images)
    found = in_onnxruntime(tmp_path / "net.onnx", images)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    model = onnx.load(tmp_path / "net.onnx")
    dynamic = sum(node.op_type == "NonZero" for node in model.graph.node)
    assert dynamic == (0 if lowering == "static" else 1)
    # Every expert's weights are layers of their own, to be packed and rounded by themselves.
    own = [layer for layer in find_layers(model) if ".mlp.experts" in layer.module]
    assert len(own) == 2 * 4
    if lowering == "static":
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value in inferred.graph.value_info:
            shape = value.type.tensor_type.shape
            assert all(d.HasField("dim_value") for d in shape.dim), value.name


def test_one_task_is_exported_without_the_others(tmp_path: Path) -> None:
    model = onnx.load(exported(tiny(depth=2), tmp_path, ["distance"]))
    assert [output.name for output in model.graph.output] == ["distance.depth"]
    assert not any("facing" in node.name or "rooms" in node.name for node in model.graph.node)
    assert sum(node.op_type == "NonZero" for node in model.graph.node) == 1


def test_tasks_share_one_copy_of_their_experts(tmp_path: Path) -> None:
    network = tiny(depth=2, gating="per_task")
    raw = exported(network, tmp_path)
    simplify(raw, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    stored = sum(np.prod(t.dims) for t in model.graph.initializer if t.data_type == 1)
    assert stored < 1.1 * sum(p.numel() for p in network.parameters())


def test_a_large_graph_is_simplified_by_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny(depth=2, experts=4)
    raw = exported(network, tmp_path, ["distance"])
    simplify(raw, tmp_path / "slim.onnx")
    monkeypatch.setattr("edgemtl.exporting.simplify.MANY", 0)
    result = simplify(raw, tmp_path / "runtime.onnx")
    again = simplify(raw, tmp_path / "again.onnx")
    assert (tmp_path / "runtime.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert again.nodes_after == result.nodes_after < 0.8 * result.nodes_before
    model = onnx.load(tmp_path / "runtime.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert all(node.name for node in model.graph.node)
    inside = [node.name for node in model.graph.node if node.name.startswith("backbone.blocks.1.")]
    assert len(inside) > 20, "nodes still say which layer they came from"
    images = network.example_input(seed=6).numpy()
    wanted = in_onnxruntime(tmp_path / "slim.onnx", images)
    found = in_onnxruntime(tmp_path / "runtime.onnx", images)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lowering", ["gather", "sorted"])
def test_the_graph_costs_what_the_network_does(lowering: Any, tmp_path: Path) -> None:
    """However a picture's tokens spread over the experts, K of them work for each."""
    network = tiny(depth=4, lowering=lowering)
    raw = exported(network, tmp_path)
    simplify(raw, tmp_path / "net.onnx")
    counted = count_cost(tmp_path / "net.onnx").macs
    assert counted == module_costs(network).macs
