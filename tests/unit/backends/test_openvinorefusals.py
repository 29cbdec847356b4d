"""What OpenVINO's front end says, taken apart: operator, node and cause of each refusal."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgemtl.backends import registry
from edgemtl.backends.openvinorefusals import Refusal, first_telling, refusals
from edgemtl.targets import load

TOLD = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- GridSample-22 with a message:
Check '(data_rank.get_length() == 4)' failed at src/frontends/onnx/src/grid_sample.cpp:23:
While validating ONNX node '<Node(GridSample): head/it>':
GridSample is only supported for 4D input tensors. Got rank: 5

Summary:
-- No conversion rule found for operations: Det-22, ai.onnx.ml.Binarizer
-- Conversion is failed for: GridSample-22
"""


def test_every_operator_comes_with_its_cause() -> None:
    assert refusals(TOLD) == [
        Refusal("Det", "", ""),
        Refusal("ai.onnx.ml.Binarizer", "", ""),
        Refusal(
            "GridSample",
            "head/it",
            "GridSample is only supported for 4D input tensors. Got rank: 5",
        ),
    ]
    assert refusals("something else entirely") == []
    assert first_telling("Exception from a.cpp:1:\nCheck 'x' failed\nwhat is wrong\n") == (
        "what is wrong"
    )


def test_a_problem_per_node_that_is_not_converted(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is None:  # imported only our way: it calls home
        pytest.skip("OpenVINO is not installed")
    nodes = [
        helper.make_node("Det", ["x"], ["a"], "first/Det"),
        helper.make_node("Det", ["x"], ["b"], "second/Det"),
        helper.make_node("Mod", ["a", "b"], ["y"], "third/Mod", fmod=0),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph(nodes, "g", values, made)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    told = registry.get("openvino").problems(tmp_path / "m.onnx", load("intel-cpu"))
    assert [(p.op, p.node) for p in told[:2]] == [("Det", "first/Det"), ("Det", "second/Det")]
    assert all(p.fatal and "OpenVINO 20" in p.reason and "Det" in p.reason for p in told[:2])
    assert "OpConversionFailure" not in "".join(p.reason for p in told)
