"""Sums of int8 products in 16 bits, which is all that x86 processors without VNNI have.

They multiply unsigned by signed bytes and add the products of two neighbouring input channels at
once (``vpmaddubsw``), in 16 bits, where they stop at 32767: 255 times two weights of 127 is twice
that. Nothing tells; tasks that int8 itself costs nothing lose some percent (docs/precision.md).
Weights of which no two neighbours of one sign add up to more than 128 compute the same on every
processor; compress/quantize/weights.py writes them so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

#: two weights of one sign add up to so much at most: 255 * 128 fits 16 bits, 255 * 129 does not
LARGEST_PAIR = 128
_SUMMING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def largest_pairs(integers: NDArray[np.int8], axis: int) -> NDArray[np.int32]:
    """Per output channel, the largest sum of two neighbours of one sign, in magnitude.

    Neighbours are the input channels 0 and 1, 2 and 3, ... at the same place of the kernel.

    Args:
        integers: a weight of at least two axes.
        axis: 0 or 1, along which the output channels lie; the input channels lie along the other.
    """
    channels = np.moveaxis(integers, axis, 0).astype(np.int32)  # (outputs, inputs, ...)
    outputs, inputs = channels.shape[:2]
    firsts, seconds = channels[:, : inputs // 2 * 2 : 2], channels[:, 1::2]
    largest = np.zeros(outputs, np.int32)
    for sign in (1, -1) if inputs > 1 else ():
        sums = np.maximum(sign * firsts, 0) + np.maximum(sign * seconds, 0)
        largest = np.maximum(largest, sums.reshape(outputs, -1).max(axis=1))
    return largest


def wide_layers(model: ModelProto) -> list[str]:
    """Nodes of an int8 graph whose sums of two products may not fit 16 bits."""
    from onnx import TensorProto, numpy_helper

    stored = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.INT8}
    weights = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            value = numpy_helper.to_array(stored[node.input[0]])
            if value.ndim > 1:
                weights[node.output[0]] = largest_pairs(value, int(axis) % value.ndim)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _SUMMING
        and node.input[1] in weights
        and bool((weights[node.input[1]] > LARGEST_PAIR).any())
    ]
