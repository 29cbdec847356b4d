"""Short names: what they change, what they leave, and that the graph computes the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from support.small_graphs import GraphBuilder, run

from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.names import shorten_names
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.compress.quantize.ranges import magnitudes


def rounded() -> tuple[GraphBuilder, ModelProto]:
    b = GraphBuilder()
    inner = b.node("Relu", [b.conv("images", "block.a", 8, 3)], "block.act")
    model = b.build(b.conv(inner, "head", 2, 8, 1), inner)
    layers = find_layers(model)
    sizes = magnitudes(model, [layer.source for layer in layers], b.images(), "minmax")
    return b, insert_qdq(model, layers, sizes)


def shortened(model: ModelProto) -> ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    shorten_names(copied)
    onnx.checker.check_model(copied, full_check=True)
    return copied


def test_the_answers_and_what_computes_keep_their_names() -> None:
    builder, model = rounded()
    short = shortened(model)
    assert [v.name for v in short.graph.output] == [v.name for v in model.graph.output]
    nodes = [n.name for n in short.graph.node if not n.op_type.endswith("Linear")]
    assert nodes == ["block.a/Conv", "block.act/Relu", "head/Conv"]
    image = builder.images(1)[0]
    before, after = run(model, image), run(short, image)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_names_weigh_little_and_are_each_one_thing() -> None:
    _, model = rounded()
    short = shortened(model)
    nodes = [node.name for node in short.graph.node]
    tensors = [t.name for t in short.graph.initializer]
    tensors += [name for node in short.graph.node for name in node.output]
    assert len(set(nodes)) == len(nodes) and len(set(tensors)) == len(tensors)
    inside = set(tensors) - {value.name for value in short.graph.output}
    assert max(map(len, inside)) <= 3
    assert len(short.SerializeToString()) < 0.8 * len(model.SerializeToString())


def test_the_same_graph_gets_the_same_names_and_a_second_time_changes_nothing() -> None:
    _, model = rounded()
    once = shortened(model)
    assert shortened(model) == once == shortened(once)


def test_names_that_are_taken_are_passed_over() -> None:
    b = GraphBuilder()
    model = b.build(b.node("Relu", [b.node("Relu", ["images"], "first")], "second"))
    model.graph.node[1].output[0] = model.graph.output[0].name = "t0"
    short = shortened(model)
    assert [node.output[0] for node in short.graph.node] == ["t1", "t0"]


def test_what_a_branch_reads_keeps_its_name() -> None:
    b = GraphBuilder()
    model = b.build(b.node("Relu", [b.node("Relu", ["images"], "first")], "last"))
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["first/Relu_output_0"], [f"{op}_inside"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_inside", TensorProto.FLOAT, None)],
        )
        for op in ("Abs", "Neg")
    ]
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["images"], ["top"], keepdims=0))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
    model.graph.initializer.append(zero)
    model.graph.node.insert(2, helper.make_node("Greater", ["top", "zero"], ["above"]))
    model.graph.node.insert(
        3,
        helper.make_node(
            "If", ["above"], ["picked"], "pick/If", then_branch=branches[0], else_branch=branches[1]
        ),
    )
    model.graph.node[-1].input[0] = "picked"
    short = shortened(model)
    image = b.images(1)[0]
    (before,), (after,) = run(model, image).values(), run(short, image).values()
    assert np.array_equal(before, after)
    assert short.graph.node[0].output[0] == "first/Relu_output_0"
    assert short.graph.node[-1].input[0] != "picked"
