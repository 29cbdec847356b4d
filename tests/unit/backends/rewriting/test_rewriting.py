"""What a runtime would compute wrongly, written otherwise: the numbers stay those of ONNX."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools"))

from runtimes import random_cases  # noqa: E402 - lies in tools/
from runtimes.cases import difference  # noqa: E402

from edgemtl.backends import registry  # noqa: E402
from edgemtl.backends.conformance.rules import all_rules  # noqa: E402
from edgemtl.backends.rewriting.settle import REWRITES, settle  # noqa: E402
from edgemtl.backends.rewriting.writer import rewrite  # noqa: E402
from edgemtl.backends.types import SessionOptions  # noqa: E402
from edgemtl.targets import load  # noqa: E402

#: operator -> (rewriting, how many of the draws it must take)
TAKEN = {
    "ReduceL1": ("by definition", 8),
    "ReduceLogSum": ("by definition", 8),
    "ReduceLogSumExp": ("by definition", 8),
    "MaxPool": ("explicit padding", 6),
    "AveragePool": ("explicit padding", 6),
    "Conv": ("explicit padding", 6),
    "ConvTranspose": ("explicit transpose", 1),
    "Resize": ("weights", 5),
}


@pytest.mark.parametrize("operator", TAKEN)
def test_the_numbers_stay(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_cases, "DRAWS", {operator: random_cases.DRAWS[operator]})
    name, least = TAKEN[operator]
    taken = 0
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    for case in random_cases.cases(10, 11):
        model = onnx.load_from_string(case.model)
        counts = rewrite(model, lambda f: REWRITES[name] if f.proto.op_type == operator else None)
        taken += sum(counts.values())
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
        answers = session.run(None, {model.graph.input[0].name: case.image})
        assert difference(case, answers) == "", case.name
    assert taken >= least


def test_sizes_and_numbers_become_constants() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "a/Shape", start=1),
        helper.make_node("Constant", [], ["two"], "a/Constant", value_ints=[2]),
        helper.make_node("Div", ["shape", "two"], ["half"], "a/Div"),
        helper.make_node("Constant", [], ["one"], "b/Constant", value_int=1),
        helper.make_node("Unsqueeze", ["one", "zero"], ["lead"], "a/Unsqueeze"),
        helper.make_node("Constant", [], ["zero"], "c/Constant", value_ints=[0]),
        helper.make_node("Concat", ["lead", "half"], ["sizes"], "a/Concat", axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], "a/Resize"),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 8]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 4]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert settle(model, "tvm") == {"Shape": 1, "Constant": 3}
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["Resize"]
    stored = {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    assert stored["sizes"] == [1, 1, 3, 4]


def _summed(path: Path, opset: int) -> np.ndarray:
    node = helper.make_node("ReduceL1", ["x"], ["y"], "head/ReduceL1", axes=[1], keepdims=1)
    shapes = ([1, 3, 4, 5], [1, 1, 4, 5])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return np.random.default_rng(0).normal(0, 1, shapes[0]).astype(np.float32)


def test_a_node_that_openvino_computes_wrongly_is_written_otherwise(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is None:  # imported only our way: it calls home
        pytest.skip("OpenVINO is not installed")
    path, folder = tmp_path / "model.onnx", tmp_path / "artefact"
    image = _summed(path, 17)
    before = path.read_bytes()
    folder.mkdir()
    backend, target = registry.get("openvino"), load("intel-cpu")
    (told,) = backend.problems(path, target)
    assert not told.fatal and told.known
    assert told.op == "ReduceL1" and told.node == "head/ReduceL1"
    assert "axes" in told.reason and "opset 17" in told.reason and "OpenVINO" in told.reason
    session = backend.load(backend.compile(path, target, folder), SessionOptions(threads=1))
    found = session.run(image)["y"]
    np.testing.assert_allclose(found, np.abs(image).sum(1, keepdims=True), rtol=1e-5)
    assert path.read_bytes() == before


def test_a_maximum_that_is_compared_with_infinity_is_guarded(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is None:  # imported only our way: it calls home
        pytest.skip("OpenVINO is not installed")
    inf = numpy_helper.from_array(np.float32(-np.inf), "inf")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], "mask/ReduceMax", axes=[1], keepdims=0),
        helper.make_node("Equal", ["most", "inf"], ["none"], "mask/Equal"),
        helper.make_node("Cast", ["none"], ["y"], "mask/Cast", to=TensorProto.FLOAT),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [inf])
    opsets = [helper.make_opsetid("", 17)]
    path, folder = tmp_path / "model.onnx", tmp_path / "artefact"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    folder.mkdir()
    backend, target = registry.get("openvino"), load("intel-cpu")
    session = backend.load(backend.compile(path, target, folder), SessionOptions(threads=1))
    image = np.array([[-np.inf] * 3, [-np.inf, 2, -np.inf]], np.float32)
    np.testing.assert_array_equal(session.run(image)["y"], [1, 0])


def test_what_is_right_stays_as_it_is(tmp_path: Path) -> None:
    _summed(tmp_path / "model.onnx", 11)
    model = onnx.load(tmp_path / "model.onnx")
    before = model.SerializeToString(deterministic=True)
    for runtime in (*all_rules(), "somebody's own"):
        assert settle(model, runtime) == {}
    assert model.SerializeToString(deterministic=True) == before
