"""Int8 in a graph: where it is rounded, in which form, and that names and the rest stay."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper
from support.small_graphs import GraphBuilder, relative_error, run

from edgemtl.compress.quantize.layers import Layer, find_layers, regions
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.compress.quantize.ranges import magnitudes
from edgemtl.compress.quantize.weights import LARGEST_PAIR, LEVELS, quantise_weight


def residual() -> tuple[GraphBuilder, ModelProto]:
    """Stem, a residual block, an upsampling beside it, and two heads that are concatenated."""
    b = GraphBuilder()
    stem = b.node("Relu", [b.conv("images", "stem", 8, 3)], "act")
    inner = b.node("Relu", [b.conv(stem, "block.a", 8, 8)], "block.act")
    total = b.node("Add", [b.conv(inner, "block.b", 8, 8), stem], "block")
    one, two = b.conv(total, "head.one", 4, 8, 1), b.conv(total, "head.two", 2, 8, 1)
    return b, b.build(b.node("Concat", [one, two], "out", axis=1))


def quantised(model: ModelProto, builder: GraphBuilder, leave: str = "") -> ModelProto:
    layers = find_layers(model)
    sources = [layer.source for layer in layers]
    sizes = magnitudes(model, sources, builder.images(), "minmax")
    return insert_qdq(model, [layer for layer in layers if layer.node != leave], sizes)


def nodes_of(model: ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def test_finds_layers_with_constant_weights() -> None:
    b = GraphBuilder((1, 6, 4))
    product = b.node("MatMul", ["images", b.constant("w", np.ones((4, 5), np.float32))], "mlp")
    stack = b.constant("stack", np.ones((1, 5, 3), np.float32))
    experts = b.node("MatMul", [product, stack], "experts")
    both = b.node("MatMul", [experts, b.node("Transpose", [experts], "t", perm=[0, 2, 1])], "attn")
    layers = find_layers(b.build(both))
    # A stack of matrices has its outputs along two axes, and attention has no constant at all.
    assert [(layer.node, layer.module, layer.axis) for layer in layers] == [
        ("mlp/MatMul", "mlp", 1)
    ]


def test_gemm_axis_follows_the_transposition() -> None:
    b = GraphBuilder((2, 4))
    weight = b.constant("w", np.ones((3, 4), np.float32))
    plain = b.constant("v", np.ones((3, 5), np.float32))
    first = b.node("Gemm", ["images", weight], "a", transB=1)
    layers = find_layers(b.build(b.node("Gemm", [first, plain], "b")))
    assert [layer.axis for layer in layers] == [0, 1]


def test_regions_get_coarser_until_they_are_few() -> None:
    layers = [
        Layer(f"{path}/Conv", "Conv", path, "x", f"{path}.weight", 0, "y")
        for path in ("net.a.0.conv", "net.a.1.conv", "net.b.0.conv", "head")
    ]
    assert list(regions(layers, 10)) == [layer.node for layer in layers]
    assert {name: len(group) for name, group in regions(layers, 3).items()} == {
        "net.a": 2,
        "net.b": 1,
        "head": 1,
    }
    assert {name: len(group) for name, group in regions(layers, 2).items()} == {"net": 3, "head": 1}


def test_form_is_what_every_runtime_reads() -> None:
    builder, model = residual()
    graph = quantised(model, builder).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = numpy_helper.to_array(stored[node.input[2]])
        assert zero.dtype == np.int8 and not zero.any()
    # No quantised bias: every bias is read as float32, straight from the file.
    for node in graph.node:
        if node.op_type == "Conv":
            assert stored[node.input[2]].data_type == TensorProto.FLOAT
    assert not any(tensor.data_type == TensorProto.INT32 for tensor in graph.initializer)


def test_weights_are_stored_once_and_in_int8() -> None:
    builder, model = residual()
    result = quantised(model, builder)
    kinds = {t.name: t.data_type for t in result.graph.initializer if len(t.dims) == 4}
    assert kinds and set(kinds.values()) == {TensorProto.INT8}
    onnx.checker.check_model(result, full_check=True)


def test_names_stay_and_the_graph_is_untouched() -> None:
    builder, model = residual()
    before = model.SerializeToString()
    result = quantised(model, builder)
    assert model.SerializeToString() == before
    names = [node.name for node in model.graph.node]
    assert [node.name for node in result.graph.node if node.name in names] == names
    assert len(nodes_of(result)) == len(result.graph.node)
    assert [value.name for value in result.graph.output] == [v.name for v in model.graph.output]


def test_each_tensor_is_rounded_once_and_answers_never() -> None:
    builder, model = residual()
    result = quantised(model, builder)
    rounded = Counter(n.input[0] for n in result.graph.node if n.op_type == "QuantizeLinear")
    assert rounded == {
        "images": 1,
        "act/Relu_output_0": 1,
        "block.act/Relu_output_0": 1,
        "block/Add_output_0": 1,
    }
    nodes = nodes_of(result)
    # The skip connection reads the int8 tensor; the heads' results go out as they are.
    assert nodes["block/Add"].input[1] == "act/Relu_output_0_dequantized"
    assert list(nodes["out/Concat"].input) == ["head.one/Conv_output_0", "head.two/Conv_output_0"]


def test_a_layer_left_in_float_reads_what_is_not_rounded() -> None:
    builder, model = residual()
    nodes = nodes_of(quantised(model, builder, leave="head.one/Conv"))
    assert list(nodes["head.one/Conv"].input) == [
        "block/Add_output_0",
        "head.one.weight",
        "head.one.bias",
    ]
    assert nodes["head.two/Conv"].input[0] == "block/Add_output_0_dequantized"


def test_answers_stay_near_the_float_graph() -> None:
    builder, model = residual()
    image = builder.images(1)[0]
    name = model.graph.output[0].name
    error = relative_error(run(quantised(model, builder), image)[name], run(model, image)[name])
    assert 0 < error < 0.05


def test_a_shared_weight_is_stored_once() -> None:
    b = GraphBuilder()
    first = b.conv("images", "a", 3, 3)
    second = b.node(
        "Conv", [first, "a.weight", "a.bias"], "b", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )
    result = quantised(b.build(second), b)
    assert [t.name for t in result.graph.initializer if len(t.dims) == 4] == ["a.weight_quantized"]


@pytest.mark.parametrize("between", [(), ("Relu",), ("Relu", "MaxPool"), ("LeakyRelu",)])
def test_a_concatenation_is_clipped_where_it_is_rounded(between: tuple[str, ...]) -> None:
    b = GraphBuilder()
    parts = [b.conv("images", f"part{i}", 4, 3) for i in range(2)]
    tensor = b.node("Concat", parts, "cat", axis=1)
    for op in between:
        sizes = {"kernel_shape": [1, 1]} if op == "MaxPool" else {}
        tensor = b.node(op, [tensor], "after", **sizes)
    model = b.build(b.conv(tensor, "head", 2, 8))
    result = quantised(model, b)
    clips = [node for node in result.graph.node if node.op_type == "Clip"]
    assert [clip.input[0] for clip in clips] == [tensor]
    stored = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    scale = stored[f"{tensor}_scale"]
    assert stored[clips[0].input[2]] == np.float32(LEVELS * scale)
    assert stored[clips[0].input[1]] == -np.float32(LEVELS * scale)
    # Inside the calibrated range nothing changes by it.
    bare = onnx.ModelProto()
    bare.CopyFrom(result)
    for node in bare.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == clips[0].output[0]:
            node.input[0] = tensor
    image = 0.5 * b.images(1)[0]
    name = model.graph.output[0].name
    np.testing.assert_array_equal(run(result, image)[name], run(bare, image)[name])


@given(
    st.integers(0, 1000),
    st.sampled_from([(4, 3, 3, 3), (5, 2), (1, 7), (6, 1, 3, 3)]),
    st.sampled_from([0, 1]),
    st.booleans(),
)
def test_weights_are_rounded_by_half_a_step_at_most(
    seed: int, shape: tuple[int, ...], axis: int, narrow: bool
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(0, 1, shape) * 10 ** rng.uniform(-6, 3)).astype(np.float32)
    integers, scales = quantise_weight(weight, axis, reduce_range=narrow)
    view = [1] * weight.ndim
    view[axis] = -1
    error = np.abs(integers * scales.reshape(view).astype(np.float64) - weight)
    assert np.abs(integers.astype(int)).max() <= LEVELS
    assert (error <= scales.reshape(view) * 0.5001).all()


@given(st.integers(0, 1000), st.sampled_from([(4, 6, 3, 3), (3, 7, 1, 1), (8, 2)]))
def test_two_products_fit_16_bits_where_sums_are_narrow(seed: int, shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    integers, scales = quantise_weight(weight, 0, reduce_range=True)
    largest = 0
    for first, second in zip(range(0, shape[1], 2), range(1, shape[1], 2), strict=False):
        one, other = integers[:, first].astype(int), integers[:, second].astype(int)
        same = one * other > 0
        largest = max(largest, int(np.abs(one + other)[same].max(initial=0)))
    assert largest <= LARGEST_PAIR == 32767 // 255
    assert np.abs(integers).max() > LEVELS // 2 - 2  # no coarser than it takes
    _, finest = quantise_weight(weight, 0)
    assert (scales >= finest).all() and (scales <= 2.01 * finest).all()


def test_a_pair_that_fits_costs_no_step() -> None:
    weight = np.array([[1.0, -1.0], [1.0, 0.007]], np.float32)
    for narrow in (False, True):
        integers, _ = quantise_weight(weight, 0, reduce_range=narrow)
        assert integers.tolist() == [[127, -127], [127, 1]]


def test_a_channel_of_zeros_has_a_scale() -> None:
    integers, scales = quantise_weight(np.zeros((2, 3), np.float32), 0)
    assert not integers.any() and (scales > 0).all()


def test_a_bias_fits_int32_at_the_product_of_the_scales() -> None:
    # Weights tiny beside the bias: with the scale that they alone would want the bias overflows
    # the int32 in which runtimes add it.
    weight = np.full((1, 4), 1e-8, np.float32)
    bias = np.array([5.0], np.float32)
    _, alone = quantise_weight(weight, 0)
    _, scales = quantise_weight(weight, 0, bias, 0.01)
    assert bias[0] / (alone[0] * 0.01) > 2**31
    assert bias[0] / (scales[0] * 0.01) < 2**31
