"""The operator table: each version's limits, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemtl import targets
from edgemtl.backends.tensorrt.optable import REWRITTEN, table_problems
from edgemtl.backends.tensorrt.settings import OPSET_LIMITS, Version, options_of
from edgemtl.backends.types import Problem
from edgemtl.errors import UsageError

TENSORRT_TARGETS = [n for n in targets.names() if targets.load(n).backend.startswith("tensorrt")]
ALL = list(OPSET_LIMITS)


def model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, opset: int = 17
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def one(
    op: str,
    version: Version,
    inputs: tuple[str, ...] = ("x",),
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> list[Problem]:
    node = helper.make_node(op, inputs, outputs, "layer/it", **attributes)
    return table_problems(model([node], constants, opset), version)


def fatal(problems: list[Problem]) -> list[bool]:
    return [problem.fatal for problem in problems]


@pytest.mark.parametrize("version", ALL)
def test_a_plain_graph_is_taken_by_all(version: Version) -> None:
    assert one("Relu", version) == []


@pytest.mark.parametrize(
    ("version", "highest"), [((8, 5), 17), ((8, 6), 17), ((10, 3), 20), ((10, 13), 24)]
)
def test_the_opset_limit(version: Version, highest: int) -> None:
    assert one("Relu", version, opset=highest) == []
    told = one("Relu", version, opset=highest + 1)
    assert fatal(told) == [True] and "opset 17" in told[0].advice


def test_layer_normalization_is_rewritten_for_8_5_only() -> None:
    inputs, constants = ("x", "s"), {"s": np.ones(8, np.float32)}
    told = one("LayerNormalization", (8, 5), inputs, constants)
    assert fatal(told) == [False] and told[0].node == "layer/it"
    for version in ALL[1:]:
        assert one("LayerNormalization", version, inputs, constants) == []
        more = one("LayerNormalization", version, inputs, constants, outputs=("y", "m"))
        assert fatal(more) == [True]


@pytest.mark.parametrize(
    ("op", "since"),
    [
        ("IsInf", (8, 6)),
        ("HardSwish", (8, 6)),
        ("Gelu", (10, 3)),
        ("Attention", (10, 14)),
        ("RMSNormalization", (10, 14)),
        ("Swish", (11, 4)),
    ],
)
def test_what_came_later_is_refused_before(op: str, since: Version) -> None:
    for version in ALL:
        told = one(op, version)
        refused = [] if version >= since else [op not in REWRITTEN]
        assert [p.fatal for p in told if "on the device" not in p.reason] == refused


@pytest.mark.parametrize("op", ["GRU", "RNN", "LpPool", "Shrink", "ReverseSequence", "Scan"])
def test_what_every_version_has(op: str) -> None:
    assert all(one(op, version) == [] for version in ALL)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("op", "attributes", "outputs", "fine"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, ("y",), False),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [1, 1]}, ("y",), True),
        ("MaxPool", {"kernel_shape": [2, 2]}, ("y", "places"), False),
        ("BatchNormalization", {"training_mode": 1}, ("y",), False),
        ("BatchNormalization", {}, ("y",), True),
        ("ConvTranspose", {"dilations": [2, 2], "strides": [2, 2]}, ("y",), False),
        ("LpPool", {"kernel_shape": [2, 2], "p": 3}, ("y",), False),
        ("ConvTranspose", {"dilations": [2, 2]}, ("y",), True),
    ],
)
def test_attributes_decide(
    version: Version, op: str, attributes: dict[str, Any], outputs: tuple[str, ...], fine: bool
) -> None:
    told = one(op, version, outputs=outputs, **attributes)
    assert fatal(told) == ([] if fine else [True])
    assert all("TensorRT" in problem.reason for problem in told)


def test_a_scatter_that_adds_would_be_silently_wrong_before_the_plugin() -> None:
    for version in ALL:
        assert one("ScatterElements", version, ("x", "i", "u")) == []
        told = one("ScatterElements", version, ("x", "i", "u"), reduction="add")
        if version < (10, 1):
            assert fatal(told) == [True] and "ignored without an error" in told[0].reason
        else:
            assert fatal(told) == [False] and "on the device" in told[0].reason


def test_axes_and_constants() -> None:
    assert one("ReduceMean", (10, 3), ("x", "a"), {"a": np.array([1])}, opset=18) == []
    assert fatal(one("ReduceMean", (10, 3), ("x", "x"), opset=18)) == [True]
    told = one("Pow", (10, 3), ("x", "p"), {"p": np.array(2, np.uint64)})
    assert fatal(told) == [True] and "uint64" in told[0].reason
    vector = {"v": np.ones(5, np.float32)}
    assert fatal(one("MatMul", (10, 3), ("v", "x"), vector)) == [True]


@pytest.mark.parametrize("op", ["RoiAlign", "DeformConv", "LSTM"])
def test_what_only_the_device_can_say(op: str) -> None:
    told = one(op, (10, 3))
    assert fatal(told) == [False] and "on the device" in told[0].reason


def test_mod_of_floats_one_hot_and_volumes() -> None:
    for version in ALL[1:]:
        assert fatal(one("Mod", version, ("x", "x"))) == [True]
        assert one("Mod", version, ("x", "x"), fmod=1) == []
        depth = {"d": np.array([4]), "v": np.array([0, 1], np.float32)}
        assert one("OneHot", version, ("x", "d", "v"), depth) == []
        assert fatal(one("OneHot", version, ("x", "d", "v"), {"v": depth["v"]})) == [True]
    grid = model([helper.make_node("GridSample", ["x", "x"], ["y"], "layer/it")])
    assert table_problems(grid, (10, 3)) == []
    grid.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 2
    assert fatal(table_problems(grid, (10, 3))) == [True]


def test_training_dropout_is_refused() -> None:
    on, off = {"r": np.float32(0.5), "t": np.bool_(True)}, {"t": np.bool_(False)}
    assert fatal(one("Dropout", (10, 3), ("x", "r", "t"), on)) == [True]
    assert one("Dropout", (10, 3), ("x", "", "t"), off) == []


@pytest.mark.parametrize(
    ("told", "table"),
    [
        ("10.3", (10, 3)),
        ("10.7", (10, 3)),
        ("10.7.0.23", (10, 3)),
        ("12.0", (11, 5)),
        ("9.3", (8, 6)),
    ],
)
def test_a_version_between_tables_takes_the_nearest_lower(told: str, table: Version) -> None:
    target = targets.load("jetson")
    asked = target.model_copy(update={"options": {**target.options, "tensorrt": told}})
    options = options_of(asked)
    assert options.version == table
    if told == "10.3":
        assert options.between == ""
    else:
        assert told in options.between and ".".join(map(str, table)) in options.between


@pytest.mark.parametrize("told", ["8.4", "ten", "10", "10.3-beta"])
def test_a_version_without_a_table_is_refused(told: str) -> None:
    target = targets.load("jetson")
    asked = target.model_copy(update={"options": {**target.options, "tensorrt": told}})
    with pytest.raises(UsageError, match=r"options\.tensorrt"):
        options_of(asked)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(("k", "fine"), [(4, True), (3840, True), (3841, False)])
def test_top_k_has_a_largest_k(version: Version, k: int, fine: bool) -> None:
    told = one("TopK", version, ("x", "k"), {"k": np.array([k])}, outputs=("y", "i"))
    assert fatal(told) == ([] if fine else [True])


@pytest.mark.parametrize("version", ALL)
def test_top_k_needs_a_constant_k(version: Version) -> None:
    told = one("TopK", version, ("x", "k"), outputs=("y", "i"))
    assert fatal(told) == [True] and "constant" in told[0].advice


@pytest.mark.parametrize("version", ALL)
def test_a_constant_node_counts_as_a_constant(version: Version) -> None:
    constant = helper.make_node(
        "Constant", [], ["k"], "k", value=numpy_helper.from_array(np.array([2]))
    )
    topk = helper.make_node("TopK", ["x", "k"], ["y", "i"], "layer/it")
    assert table_problems(model([constant, topk]), version) == []


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("op", "zero", "fine"),
    [
        ("QuantizeLinear", np.int8(0), True),
        ("QuantizeLinear", np.int8(3), False),
        ("QuantizeLinear", np.uint8(0), False),
        ("DequantizeLinear", np.int8(0), True),
        ("DequantizeLinear", np.uint8(128), False),
    ],
)
def test_only_symmetric_int8_is_taken(version: Version, op: str, zero: Any, fine: bool) -> None:
    told = one(op, version, ("x", "s", "z"), {"s": np.float32(0.1), "z": zero})
    assert fatal(told) == ([] if fine else [True])


@pytest.mark.parametrize("version", ALL)
def test_quantising_without_a_zero_point_means_uint8(version: Version) -> None:
    assert fatal(one("QuantizeLinear", version, ("x", "s"), {"s": np.float32(0.1)})) == [True]


@pytest.mark.parametrize("version", ALL)
def test_an_int32_bias_is_refused(version: Version) -> None:
    constants = {"b": np.zeros(4, np.int32), "s": np.float32(0.1)}
    told = one("DequantizeLinear", version, ("b", "s"), constants)
    assert fatal(told) == [True] and "int32" in told[0].reason


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("op", ["If", "Loop", "NonZero", "Unique"])
def test_what_depends_on_the_data_is_refused(version: Version, op: str) -> None:
    told = one(op, version)
    assert fatal(told) == [True] and "fixed capacity" in told[0].advice


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("attributes", "fine"),
    [
        ({"mode": "linear"}, True),
        ({"mode": "cubic"}, True),
        ({"mode": "cubic", "exclude_outside": 1}, False),
        ({"mode": "linear", "antialias": 1}, False),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, False),
    ],
)
def test_resize(version: Version, attributes: dict[str, Any], fine: bool) -> None:
    constants = {"s": np.ones(4, np.float32)}
    told = one("Resize", version, ("x", "", "s"), constants, **attributes)
    assert fatal(told) == ([] if fine else [True])


def test_scatter_with_a_reduction_is_refused() -> None:
    for version in ALL:
        assert one("ScatterND", version, ("x", "i", "u")) == []
        assert fatal(one("ScatterND", version, ("x", "i", "u"), reduction="add")) == [True]


def test_an_ellipsis_is_for_version_10() -> None:
    for version in ALL:
        told = one("Einsum", version, ("x", "x"), equation="...i,...j->...ij")
        assert fatal(told) == ([] if version >= (10, 0) else [True])


def test_an_input_without_fixed_shape_is_refused() -> None:
    graph = model([helper.make_node("Relu", ["x"], ["y"], "layer/it")])
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert fatal(table_problems(graph, (10, 3))) == [True]


@pytest.mark.parametrize("name", TENSORRT_TARGETS)
def test_a_target_exports_what_its_parser_reads(name: str) -> None:
    target = targets.load(name)
    options = options_of(target)
    assert target.opset <= OPSET_LIMITS[options.version]
    assert not target.measured_here
    if options.version < (10, 0):
        assert target.deformable == "portable"


def test_the_boards_are_there() -> None:
    boards = {"jetson", "jetson-orin-nx", "jetson-agx-orin", "jetson-xavier-nx", "jetson-thor"}
    assert boards | {"rtx"} == set(TENSORRT_TARGETS)


def test_an_unknown_option_is_named() -> None:
    target = targets.load("jetson")
    wrong = target.model_copy(update={"options": {**target.options, "tensorrtt": "8.6"}})
    with pytest.raises(UsageError, match=r"options\.tensorrtt"):
        options_of(wrong)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("kind", "since"),
    [
        (TensorProto.FLOAT16, (8, 5)),
        (TensorProto.INT64, (8, 5)),
        (TensorProto.BFLOAT16, (10, 3)),
        (TensorProto.DOUBLE, None),
    ],
)
def test_casts(version: Version, kind: int, since: Version | None) -> None:
    told = one("Cast", version, to=kind)
    assert fatal(told) == ([] if since is not None and version >= since else [True])


@pytest.mark.parametrize("version", ALL)
def test_scales_are_float32_constants_before_10(version: Version) -> None:
    inputs = ("x", "scale", "zero")
    zero = np.zeros((), np.int8)
    half = {"scale": np.asarray(0.5, np.float16), "zero": zero}
    assert fatal(one("QuantizeLinear", version, inputs, half)) == (
        [True] if version < (10, 0) else []
    )
    told = one("QuantizeLinear", version, inputs, {"zero": zero})
    assert fatal(told) == [True] and "scale is computed" in told[0].reason


@pytest.mark.parametrize("version", ALL)
def test_the_plugin_for_suppression_is_known_and_held_to_its_form(version: Version) -> None:
    outputs = ("count", "boxes", "scores", "y")
    inputs = ("x", "x")
    fine = one("EfficientNMS_TRT", version, inputs, outputs=outputs, max_output_boxes=100)
    assert fine == []
    assert fatal(one("EfficientNMS_TRT", version, inputs, outputs=outputs)) == [True]
    assert fatal(one("EfficientNMS_TRT", version, inputs, max_output_boxes=100)) == [True]
    assert fatal(one("OtherPlugin_TRT", version, inputs)) == [True]
