"""Rescaling channels changes no answer and brings channels together; biases take the mean error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.small_graphs import GraphBuilder, relative_error, run

from edgemtl.compress.quantize.bias import bias_shifts, shift_biases
from edgemtl.compress.quantize.equalise import LARGEST_FACTOR, balance, equalise
from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.compress.quantize.ranges import magnitudes
from edgemtl.compress.quantize.simulate import Channels, channel_statistic


def unlike(builder: GraphBuilder, outputs: int, inputs: int, kernel: int = 3) -> np.ndarray:
    """A weight whose output channels differ in size by up to a thousand times."""
    weight = builder.rng.normal(0, 1, (outputs, inputs, kernel, kernel))
    weight *= np.geomspace(0.01, 10, outputs).reshape(-1, 1, 1, 1)
    return weight.astype(np.float32)


def error_of_int8(model, builder: GraphBuilder) -> float:
    layers = find_layers(model)
    sizes = magnitudes(model, [x.source for x in layers], builder.images(), "minmax")
    name = model.graph.output[0].name
    image = builder.images(1)[0]
    rounded = run(insert_qdq(model, layers, sizes), image)[name]
    return relative_error(rounded, run(model, image)[name])


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from(["Relu", "LeakyRelu", None]), st.booleans())
def test_answers_stay_the_same(seed: int, activation: str | None, depthwise: bool) -> None:
    b = GraphBuilder(seed=seed)
    x = b.conv("images", "a", 6, 3, weight=unlike(b, 6, 3))
    if activation:
        x = b.node(activation, [x], "act")
    x = b.conv(x, "b", 6, 6, group=6 if depthwise else 1)
    model = b.build(b.conv(b.node("Relu", [x], "act2"), "c", 4, 6))
    equal, joints = equalise(model, find_layers(model), b.images(2))
    assert joints == 2
    image = b.images(1)[0]
    name = model.graph.output[0].name
    assert relative_error(run(equal, image)[name], run(model, image)[name]) < 1e-5


def test_channels_of_a_depthwise_input_all_reach_the_largest() -> None:
    b = GraphBuilder()
    weight = np.sqrt(np.abs(unlike(b, 6, 3)))  # differ less than the largest factor allowed
    x = b.node("Relu", [b.conv("images", "a", 6, 3, weight=weight)], "act")
    model = b.build(b.conv(x, "b", 6, 6, group=6))
    images = b.images()
    equal, _ = equalise(model, find_layers(model), images)
    statistic = {x: Channels(4, 1)}
    before = channel_statistic(model, statistic, images, largest=True)[x]
    after = channel_statistic(equal, statistic, images, largest=True)[x]
    assert before.max() / before.min() > 10
    np.testing.assert_allclose(after, before.max(), rtol=1e-4)


def test_int8_gets_better_by_it() -> None:
    b = GraphBuilder()
    x = b.node("Relu", [b.conv("images", "a", 16, 3, weight=unlike(b, 16, 3))], "act")
    x = b.node("Relu", [b.conv(x, "b", 16, 16, group=16, weight=1 / unlike(b, 16, 1))], "act2")
    model = b.build(b.conv(x, "c", 4, 16, 1))
    equal, _ = equalise(model, find_layers(model), b.images())
    assert error_of_int8(equal, b) < 0.5 * error_of_int8(model, b)


def test_branches_of_a_concatenation_are_brought_together() -> None:
    b = GraphBuilder()
    small = b.conv("images", "small", 4, 3, weight=0.01 * unlike(b, 4, 3))
    large = b.conv("images", "large", 4, 3, weight=unlike(b, 4, 3))
    x = b.node("Relu", [b.node("Concat", [small, large], "cat", axis=1)], "act")
    model = b.build(b.conv(x, "head", 4, 8, group=1))
    images = b.images()
    equal, joints = equalise(model, find_layers(model), images)
    assert joints == 1
    statistic = {x: Channels(4, 1)}

    def ratio(graph) -> float:
        sizes = channel_statistic(graph, statistic, images, largest=True)[x]
        return float(sizes[:4].max() / sizes[4:].max())

    assert ratio(model) < 0.02
    assert ratio(equal) > 5 * ratio(model)


@pytest.mark.parametrize("kind", ["clip", "sum", "output", "shared weight"])
def test_nothing_changes_where_ratios_are_not_kept(kind: str) -> None:
    b = GraphBuilder((1, 4, 8, 8))
    first = b.conv("images", "a", 4, 4)
    if kind == "clip":
        ends = [b.constant("low", np.float32(0)[...]), b.constant("high", np.float32(6)[...])]
        model = b.build(b.conv(b.node("Clip", [first, *ends], "act"), "b", 2, 4))
    elif kind == "sum":
        second = b.conv(first, "b", 4, 4)
        model = b.build(b.node("Add", [first, second], "sum"))
    elif kind == "output":
        model = b.build(b.conv(first, "b", 2, 4), first)
    else:
        again = b.node("Conv", [first, "a.weight", "a.bias"], "b", pads=[1, 1, 1, 1])
        model = b.build(again)
    equal, joints = equalise(model, find_layers(model), b.images(1))
    assert joints == 0
    assert equal.SerializeToString() == model.SerializeToString()


@given(st.integers(0, 10_000))
def test_factors_are_bounded_whatever_the_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.abs(rng.normal(0, 1, 5)) * 10.0 ** rng.integers(-12, 6, 5) * rng.integers(0, 2, 5)
    weight = rng.normal(0, 1, (3, 5, 1, 1)) * rng.integers(0, 2, (3, 5, 1, 1))
    for groups in (1, 5):
        factors = balance(sizes, [(weight if groups == 1 else weight[:1].T, groups)])
        assert np.isfinite(factors).all()
        assert (factors >= 1 / LARGEST_FACTOR).all() and (factors <= LARGEST_FACTOR).all()


def test_corrected_layers_have_the_float_mean() -> None:
    b = GraphBuilder()
    # Inputs that are never negative and weights that round unevenly: the mean is off.
    x = b.node("Relu", [b.conv("images", "a", 8, 3)], "act")
    weight = np.full((4, 8, 3, 3), 0.4, np.float32)
    weight[:, 0] = 100.0
    model = b.build(b.conv(x, "b", 4, 8, weight=weight))
    layers = find_layers(model)
    images = b.images()
    sizes = magnitudes(model, [layer.source for layer in layers], images, "minmax")
    rounded = insert_qdq(model, layers, sizes)
    result = layers[1].result
    only = [layers[1]]  # its input must be the float graph's, or the first layer's error adds
    statistic = {result: Channels(4, 1)}
    wanted = channel_statistic(model, statistic, images, largest=False)[result]

    def mean_of(graph) -> np.ndarray:
        return channel_statistic(graph, statistic, images, largest=False)[result]

    single = insert_qdq(model, only, sizes)
    off = np.abs(mean_of(single) - wanted).max()
    shift_biases(single, bias_shifts(model, single, only, images))
    left = np.abs(mean_of(single) - wanted).max()
    assert off > 0.05
    assert left < 1e-3 * off + 1e-4
    # All layers at once: measured on the float graph's values, so the same shift for this one.
    shifts = bias_shifts(model, rounded, layers, images)
    np.testing.assert_allclose(
        shifts[layers[1].node],
        bias_shifts(model, insert_qdq(model, only, sizes), only, images)[layers[1].node],
        atol=1e-5,
    )


def test_layers_that_share_a_bias_get_their_own() -> None:
    b = GraphBuilder((1, 3, 6, 6))
    first = b.conv("images", "a", 3, 3)
    model = b.build(b.node("Conv", [first, "a.weight", "a.bias"], "b", pads=[1, 1, 1, 1]))
    shifts = {"a/Conv": np.float32([1, 2, 3]), "b/Conv": np.float32([4, 5, 6])}
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}["a.bias"]
    shift_biases(model, shifts)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        np.testing.assert_array_equal(stored[node.input[2]], before + shifts[node.name])
