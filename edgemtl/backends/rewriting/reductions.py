"""ReduceL1, ReduceLogSum and ReduceLogSumExp by their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemtl.backends.rewriting.writer import Writer


def _axes(writer: Writer) -> Sequence[int] | bool | None:
    """Axes of the reduction, None for all; False where the graph computes them."""
    facts = writer.facts
    if "axes" in facts.attributes:
        return list(facts.attributes["axes"])
    if len(facts.inputs) < 2 or facts.inputs[1] == "absent":
        return None
    value = facts.value(1)
    return False if value is None else [int(axis) for axis in value.ravel()]


def infinite_maximum(writer: Writer) -> bool:
    """A ReduceMax that answers minus infinity where all values are, behind one that stops short.

    The most negative float32 stands for minus infinity then.
    """
    node = writer.node
    axes = _axes(writer)
    if isinstance(axes, bool) or writer.attribute("noop_with_empty_axes", 0):
        return False
    keep = int(writer.attribute("keepdims", 1))
    found = writer.reduce("ReduceMax", node.input[0], axes, keep)
    lowest = writer.scalar(float(np.finfo(np.float32).min))
    least = writer.add("LessOrEqual", [found, lowest])
    writer.add("Where", [least, writer.scalar(float("-inf")), found], node.output[0])
    return True


def reduction(writer: Writer) -> bool:
    """L1: sum of magnitudes. LogSum: log of the sum. LogSumExp: m + log sum exp(x - m), m the max.

    Numbers that are not finite come out as by the definition, but for a LogSumExp whose largest
    value is infinite.
    """
    axes, node = _axes(writer), writer.node
    if isinstance(axes, bool) or writer.attribute("noop_with_empty_axes", 0):
        return False
    x, y, keep = node.input[0], node.output[0], int(writer.attribute("keepdims", 1))
    if node.op_type == "ReduceL1":
        writer.reduce("ReduceSum", writer.add("Abs", [x]), axes, keep, y)
    elif node.op_type == "ReduceLogSum":
        writer.add("Log", [writer.reduce("ReduceSum", x, axes, keep)], y)
    elif node.op_type == "ReduceLogSumExp":
        largest = writer.reduce("ReduceMax", x, axes, 1)
        raised = writer.add("Exp", [writer.add("Sub", [x, largest])])
        logarithm = writer.add("Log", [writer.reduce("ReduceSum", raised, axes, keep)])
        # Reduced again, it has the same axes as the sum.
        base = largest if keep else writer.reduce("ReduceMax", x, axes, 0)
        writer.add("Add", [logarithm, base], y)
    else:
        return False
    return True
