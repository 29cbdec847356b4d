"""What is particular to TensorRT targets: lowering, the proxy, and that nothing is passed off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgemtl import targets
from edgemtl.backends.tensorrt import backend as module
from edgemtl.backends.tensorrt import proxy
from edgemtl.backends.tensorrt.backend import TensorRtBackend, TensorRtRtxBackend
from edgemtl.backends.tensorrt.lowering import lower
from edgemtl.backends.tensorrt.optable import table_problems
from edgemtl.backends.types import Artefact
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.measure.latency import BenchRequest, bench

ReluGraph = Callable[..., Path]
needs_rtx = pytest.mark.skipif(
    proxy.installed_version() is None, reason="TensorRT-RTX is not installed (edgemtl[tensorrt])"
)


def graph(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], rank: int = 3
) -> Path:
    shape = [1, 3, 4, 8][:rank]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    answer: NDArray[np.float32] = session.run(["y"], {"images": images})[0]
    return answer


def random(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization_decomposed_is_equal(tmp_path: Path, axis: int, bias: bool) -> None:
    width = (1, 3, 4)[axis:] if axis != -1 else (4,)
    constants = {"scale": random(width, 1)} | ({"bias": random(width, 2)} if bias else {})
    inputs = ["images", *constants]
    node = helper.make_node(
        "LayerNormalization", inputs, ["y"], "block/LayerNorm", axis=axis, epsilon=1e-3
    )
    model = onnx.load(graph(tmp_path / "ln.onnx", [node], constants))
    images = random((1, 3, 4))
    before = run(model, images)
    assert lower(model, (8, 5)) == {"LayerNormalization": 1}
    onnx.checker.check_model(model, full_check=True)
    assert table_problems(model, (8, 5)) == []
    assert all(n.name.startswith("block/LayerNorm") for n in model.graph.node)
    np.testing.assert_allclose(run(model, images), before, rtol=1e-5, atol=1e-5)


def test_layer_normalization_of_float16_is_computed_in_float32(tmp_path: Path) -> None:
    half, wide = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["narrow"], "in", to=half),
        helper.make_node("LayerNormalization", ["narrow", "s", "b"], ["normal"], "ln"),
        helper.make_node("Cast", ["normal"], ["y"], "out", to=wide),
    ]
    model = onnx.load(graph(tmp_path / "ln.onnx", nodes, {"s": random((4,), 1), "b": [0.0] * 4}))
    for index, tensor in enumerate(list(model.graph.initializer)):
        narrow = numpy_helper.to_array(tensor).astype(np.float16)
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    images = 300 * random((1, 3, 4))  # squares beyond what float16 holds
    before = run(model, images)
    assert lower(model, (8, 5)) == {"LayerNormalization": 1}
    onnx.checker.check_model(model, full_check=True)
    assert module._precisions(model) == {"fp16": True, "int8": False}
    np.testing.assert_allclose(run(model, images), before, rtol=5e-3, atol=5e-3)


def test_hard_swish_rewritten_is_equal(tmp_path: Path) -> None:
    node = helper.make_node("HardSwish", ["images"], ["y"], "act/HardSwish")
    model = onnx.load(graph(tmp_path / "hs.onnx", [node], {}))
    images = np.linspace(-5, 5, 12, dtype=np.float32).reshape(1, 3, 4)
    before = run(model, images)
    assert lower(model, (8, 5)) == {"HardSwish": 1}
    np.testing.assert_allclose(run(model, images), before, atol=1e-6)


def test_a_version_that_has_it_keeps_it(tmp_path: Path) -> None:
    node = helper.make_node("HardSwish", ["images"], ["y"], "act/HardSwish")
    model = onnx.load(graph(tmp_path / "hs.onnx", [node], {}))
    kept = model.SerializeToString()
    assert lower(model, (8, 6)) == {}
    assert model.SerializeToString() == kept


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_exported_without_the_operator_gelu(tmp_path: Path, approximate: str) -> None:
    path = tmp_path / "gelu.onnx"
    torch.onnx.export(
        torch.nn.GELU(approximate), (torch.zeros(1, 3, 4),), path, opset_version=17, dynamo=False
    )
    assert table_problems(onnx.load(path), (8, 5)) == []


def test_the_artefact_is_lowered_and_says_what_was_done(tmp_path: Path) -> None:
    node = helper.make_node("HardSwish", ["images"], ["y"], "act/HardSwish")
    path = graph(tmp_path / "hs.onnx", [node], {}, rank=4)
    (tmp_path / "out").mkdir()
    backend = TensorRtBackend()
    artefact = backend.compile(path, targets.load("jetson-xavier-nx"), tmp_path / "out")
    written = onnx.load(artefact.folder / artefact.files[0])
    assert "HardSwish" not in {n.op_type for n in written.graph.node}
    assert artefact.facts["rewritten"] == {"HardSwish": 1}
    assert artefact.facts["built_here"] is False
    session = backend.load(artefact)
    assert session.kind == "proxy"
    images = random((1, 3, 4, 8))
    np.testing.assert_allclose(session.run(images)["y"], run(onnx.load(path), images), atol=1e-5)


def test_the_proxy_is_never_timed(relu_graph: ReluGraph, tmp_path: Path) -> None:
    artefact = TensorRtBackend().compile(relu_graph(), targets.load("jetson"), tmp_path / "out")
    with pytest.raises(TargetUnavailable, match="this machine is not 'jetson'"):
        bench(BenchRequest(artefact))


def test_without_tensorrt_rtx_it_says_so_and_goes_on(
    relu_graph: ReluGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "installed_version", lambda: None)
    backend, target, path = TensorRtBackend(), targets.load("jetson"), relu_graph()
    told = backend.problems(path, target)
    assert [p.fatal for p in told] == [False] and "not installed" in told[0].reason
    assert backend.compile(path, target, tmp_path / "out").facts["checked_by"] == "operator table"


def proxied(
    monkeypatch: pytest.MonkeyPatch, findings: tuple[proxy.Finding, ...]
) -> list[dict[str, Any]]:
    """Let the proxy answer this; returns what it is asked."""
    asked: list[dict[str, Any]] = []

    def answer(path: Path, device: str, workspace_mb: int) -> proxy.ProxyResult:
        asked.append({"device": device, "workspace_mb": workspace_mb})
        return proxy.ProxyResult(not findings, not findings, findings)

    monkeypatch.setattr(proxy, "installed_version", lambda: "1.7")
    monkeypatch.setattr(proxy, "run_proxy", answer)
    return asked


def test_a_refusal_of_the_proxy_stops_and_is_labelled(
    relu_graph: ReluGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxied(monkeypatch, (proxy.Finding("layer.act/Relu", "Relu", "it is a Tuesday"),))
    told = TensorRtBackend().problems(relu_graph(), targets.load("jetson"))
    assert [(p.node, p.fatal) for p in told] == [("layer.act/Relu", True)]
    assert "not a Jetson engine" in told[0].reason and "Tuesday" in told[0].reason


def test_what_only_the_board_has_is_not_held_against_it(
    relu_graph: ReluGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = proxy.Finding("nms", "NonMaxSuppression", "no runner")
    proxied(monkeypatch, (finding,))
    path = relu_graph()
    told = TensorRtBackend().problems(path, targets.load("jetson"))
    assert [p.fatal for p in told] == [False]
    told = TensorRtRtxBackend().problems(path, targets.load("rtx"))
    assert [p.fatal for p in told] == [True]


def test_the_proxy_is_asked_once_per_graph(
    relu_graph: ReluGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = proxied(monkeypatch, ())
    backend, target, path = TensorRtBackend(), targets.load("jetson"), relu_graph()
    backend.problems(path, target)
    backend.compile(path, target, tmp_path / "out")
    assert asked == [{"device": "SM86", "workspace_mb": 1024}]


def test_a_proxy_that_dies_does_not_stop_a_board(
    relu_graph: ReluGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> proxy.ProxyResult:
        raise StageFailed("TensorRT-RTX died (exit code -11): silently")

    monkeypatch.setattr(proxy, "installed_version", lambda: "1.7")
    monkeypatch.setattr(proxy, "run_proxy", dies)
    told = TensorRtBackend().problems(relu_graph(), targets.load("jetson"))
    assert [p.fatal for p in told] == [False] and "exit code -11" in told[0].reason


def test_the_table_answers_before_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = proxied(monkeypatch, ())
    node = helper.make_node("Unique", ["images"], ["y"], "layer/Unique")
    told = TensorRtBackend().problems(
        graph(tmp_path / "u.onnx", [node], {}), targets.load("jetson")
    )
    assert [p.node for p in told if p.fatal] == ["layer/Unique"]
    assert asked == []


def test_a_profile_of_another_shape_is_refused(relu_graph: ReluGraph, tmp_path: Path) -> None:
    artefact = TensorRtBackend().compile(relu_graph(), targets.load("jetson"), tmp_path / "out")
    profile = artefact.folder / module.PROFILE_FILE
    profile.write_text(profile.read_text("utf-8").replace("3,", "5,"), "utf-8")
    with pytest.raises(StageFailed, match="its profile says"):
        TensorRtBackend().load(artefact)


@needs_rtx
def test_the_real_proxy_builds_and_refuses(relu_graph: ReluGraph, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    done = proxy.run_proxy(relu_graph(), "SM86", 64, plan)
    assert done == proxy.ProxyResult(True, True, ())
    assert plan.stat().st_size > 0
    node = helper.make_node("Unique", ["images"], ["y"], "layer/Unique")
    refused = proxy.run_proxy(graph(tmp_path / "u.onnx", [node], {}), "SM86", 64)
    assert not refused.parsed and refused.findings[0].op == "Unique"


@needs_rtx
def test_the_proxy_is_ended_when_it_takes_too_long(relu_graph: ReluGraph) -> None:
    with pytest.raises(StageFailed, match="took more than"):
        proxy.run_proxy(relu_graph(), "SM86", 64, time_limit_seconds=0.01)


@needs_rtx
def test_a_proxy_that_writes_no_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="died"):
        proxy.run_proxy(tmp_path / "absent.onnx", "SM86", 64)


@needs_rtx
def test_the_plan_is_the_artefact_of_rtx(relu_graph: ReluGraph, tmp_path: Path) -> None:
    artefact: Artefact = TensorRtRtxBackend().compile(
        relu_graph(), targets.load("rtx"), tmp_path / "out"
    )
    assert artefact.files[0] == module.PLAN_FILE and not artefact.reproducible
    assert artefact.facts["built_here"] is True
