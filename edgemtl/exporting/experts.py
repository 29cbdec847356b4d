"""How the operator ``edgemtl::routed_experts`` (models/m3vit/experts.py) is written in ONNX.

One NonZero on the (E, T) map of who goes where lists all tokens sorted by expert; split by the
number that each expert gets, it says which rows every expert gathers. Per expert then: Gather, two
Gemm with a GELU between, and a product with the gate's weights. The answers are added to their
tokens either after each expert (``gather``) or all at once in the end (``sorted``).

The map is made from the indices of the gate's choice, not from its weights: these may underflow to
zero, and then the counts would not sum to K T. Weights of all experts lie in one stacked tensor per
layer; after :func:`unstack_weights` each expert has its own, as runtimes want to pack them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgemtl.models.experts import ExpertLayer
from edgemtl.models.experts import Lowering as ExpertLowering

if TYPE_CHECKING:
    from onnx import ModelProto

_OPERATOR = "edgemtl::routed_experts"


def _sizes(g: Any, index: int) -> list[int]:
    """Static shape of an input of the traced operator."""
    return list(list(g.original_node.inputs())[index].type().sizes())


def _routed_experts(
    g: Any,
    tokens: Any,
    experts: Any,
    weights: Any,
    weight_in: Any,
    bias_in: Any,
    weight_out: Any,
    bias_out: Any,
    at_once: Any,
) -> Any:
    count, hidden, dim = _sizes(g, 3)
    rows, top_k = _sizes(g, 1)

    def constant(values: Any, kind: torch.dtype = torch.int64) -> Any:
        return g.op("Constant", value_t=torch.tensor(values, dtype=kind))

    def stack(value: Any, *shape: int) -> Any:
        """Each expert's part of a stacked weight."""
        flat = g.op("Reshape", value, constant(shape))
        return g.op("Split", flat, constant([shape[0] // count] * count), axis_i=0, outputs=count)

    w_in, b_in = stack(weight_in, count * hidden, dim), stack(bias_in, count * hidden)
    w_out, b_out = stack(weight_out, count * dim, hidden), stack(bias_out, count * dim)
    # One column more than there are experts, for choices of experts that were dropped.
    nobody = g.op("Constant", value_t=torch.zeros(rows, count + 1))
    ones = g.op("Constant", value_t=torch.ones(rows, top_k))

    def by_expert(values: Any) -> Any:
        """(T, K) values at the chosen experts -> (E, T)."""
        spread = g.op("ScatterElements", nobody, experts, values, axis_i=1)
        there = g.op("Slice", spread, constant([0]), constant([count]), constant([1]))
        return g.op("Transpose", there, perm_i=[1, 0])

    chosen, shares = by_expert(ones), by_expert(weights)
    pairs = g.op("NonZero", chosen)  # (2, K T): experts in order, and their tokens
    queue = g.op("Gather", pairs, constant(1), axis_i=0)
    column = g.op("Unsqueeze", queue, constant([1]))
    lengths = g.op("Cast", g.op("ReduceSum", chosen, constant([1]), keepdims_i=0), to_i=7)  # int64
    share = g.op(
        "Unsqueeze",
        g.op("GatherND", shares, g.op("Transpose", pairs, perm_i=[1, 0])),
        constant([1]),
    )
    queues = g.op("Split", queue, lengths, axis_i=0, outputs=count)
    once = bool(at_once.node().t("value"))
    places, parts = (
        ([], [])
        if once
        else (
            g.op("Split", column, lengths, axis_i=0, outputs=count),
            g.op("Split", share, lengths, axis_i=0, outputs=count),
        )
    )
    half, one, root = (constant(v, torch.float32) for v in (0.5, 1.0, 2.0**0.5))
    total = g.op("Constant", value_t=torch.zeros(rows, dim))
    answers = []
    for expert in range(count):
        own = g.op("Gather", tokens, queues[expert], axis_i=0)
        x = g.op("Gemm", own, w_in[expert], b_in[expert], transB_i=1)
        erf = g.op("Erf", g.op("Div", x, root))
        x = g.op("Mul", g.op("Mul", x, g.op("Add", erf, one)), half)
        x = g.op("Gemm", x, w_out[expert], b_out[expert], transB_i=1)
        if once:
            answers.append(x)
            continue
        x = g.op("Mul", x, parts[expert])
        total = g.op("ScatterND", total, places[expert], x, reduction_s="add")
    if once:
        weighted = g.op("Mul", g.op("Concat", *answers, axis_i=0), share)
        total = g.op("ScatterND", total, column, weighted, reduction_s="add")
    total.setType(tokens.type())
    return total


def choose_experts(network: nn.Module, lowering: ExpertLowering) -> None:
    """Set how a network computes its experts, in place; others are left alone.

    A network whose experts have a calibrated capacity keeps it.
    """
    for module in network.modules():
        if isinstance(module, ExpertLayer):
            module.lowering = lowering


@contextmanager
def written_experts(opset: int) -> Iterator[None]:
    """While active, an export can write mixtures of experts."""
    torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]
        _OPERATOR, _routed_experts, opset
    )
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_OPERATOR, opset)  # type: ignore[attr-defined]


def unstack_weights(model: ModelProto) -> int:
    """Split stacked weights into weights of their own, in place; returns how many Splits went.

    Only what reads a stored tensor through one Reshape is touched. Tasks that share experts share
    the parts too: the parts of a weight are made once.
    """
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored.update(
        {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
    )
    shaped = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Reshape" and node.input[0] in stored and node.input[1] in stored
    }
    made: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    gone = []
    for node in graph.node:
        if node.op_type != "Split" or node.input[0] not in shaped or node.input[1] not in stored:
            continue
        reshape = shaped[node.input[0]]
        source = reshape.input[0]
        if source not in made:
            array = numpy_helper.to_array(stored[source])
            array = array.reshape(numpy_helper.to_array(stored[reshape.input[1]]))
            sizes = numpy_helper.to_array(stored[node.input[1]])
            made[source] = []
            start = 0
            for index, size in enumerate(sizes):
                name = f"{source}.{index}"
                part = numpy_helper.from_array(array[start : start + size].copy(), name)
                graph.initializer.append(part)
                made[source].append(name)
                start += int(size)
        names.update(zip(node.output, made[source], strict=True))
        gone.append(node)
    for node in gone:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    _drop_unread(model)
    return len(gone)


def _drop_unread(model: ModelProto) -> None:
    graph = model.graph
    outputs = {value.name for value in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        idle = [n for n in graph.node if n.op_type in ("Reshape", "Constant")]
        idle = [n for n in idle if not any(name in read for name in n.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
