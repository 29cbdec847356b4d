"""Short names for what quantisation adds and for tensors inside a graph.

Names weigh in a narrow network's int8 file: with a rounding pair around every tensor, each named
after the tensor and read by its name, they were a seventh of a pruned network's file. What people
and profilers look for are the nodes that compute, and what a caller asks for are inputs and
outputs; these keep their names.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from edgemtl.backends.taskfiles import names_inside

if TYPE_CHECKING:
    from onnx import ModelProto

#: operator that quantisation adds -> what its nodes are called, with a number
_PAIRS = {"QuantizeLinear": "q", "DequantizeLinear": "dq"}


def shorten_names(model: ModelProto) -> None:
    """Number the tensors inside a graph (``t0``, ``t1``, ...) and its rounding nodes, in place.

    Numbers follow the order of the graph, so equal graphs get equal names. Graph inputs and
    outputs, what the branches of an ``If`` or a ``Loop`` read, and every other node keep their
    names; value infos, which go by names, are left out. A name that is taken is passed over.
    """
    graph = model.graph
    kept: set[str] = {value.name for value in (*graph.input, *graph.output)}
    kept.update(*map(names_inside, graph.node))
    free = (name for n in itertools.count() if (name := f"t{n}") not in kept)
    short = {name: name for name in (*kept, "")}

    def of(name: str) -> str:
        if name not in short:
            short[name] = next(free)
        return short[name]

    taken = {node.name for node in graph.node if node.op_type not in _PAIRS}
    numbers = itertools.count()
    for node in graph.node:
        node.input[:] = [of(name) for name in node.input]
        node.output[:] = [of(name) for name in node.output]
        if prefix := _PAIRS.get(node.op_type):
            node.name = next(n for i in numbers if (n := f"{prefix}{i}") not in taken)
    for tensor in graph.initializer:
        tensor.name = of(tensor.name)
    graph.ClearField("value_info")
