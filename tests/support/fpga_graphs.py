"""Small quantised graphs for the FPGA backend, with everything its pattern table takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.qdq import insert_qdq
from support.small_graphs import GraphBuilder, run


def quantised(model: ModelProto, images: Sequence[NDArray[np.float32]]) -> ModelProto:
    """int8 with the ranges that these pictures have."""
    layers = find_layers(model)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    sources = sorted({layer.source for layer in layers} - {"images"})
    outputs = {value.name for value in model.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in sources
        if name not in outputs
    )
    magnitudes = {"images": max(float(np.abs(p).max()) for p in images)}
    for image in images:
        for name, value in run(watched, image).items():
            magnitudes[name] = max(magnitudes.get(name, 0.0), float(np.abs(value).max()))
    return insert_qdq(model, layers, magnitudes)


def convolutional() -> tuple[ModelProto, list[NDArray[np.float32]]]:
    """Every pattern on maps, and two outputs; (int8 graph, pictures)."""
    b = GraphBuilder((1, 3, 13, 18))
    stem = b.node("Relu", [b.conv("images", "stem", 10, 3)], "stem")
    deep = b.node("Relu", [b.conv(stem, "deep", 10, 10, group=10)], "deep")
    wide = b.conv(deep, "wide", 20, 10, kernel=1)
    other = b.conv(stem, "other", 20, 10, kernel=5)
    both = b.node("Relu", [b.node("Add", [wide, other], "both")], "both")  # two sums of products
    keep = b.conv(both, "keep", 20, 20)
    skip = b.node("Add", [keep, both], "skip")  # a residual sum
    pooled = b.node("MaxPool", [skip], "pooled", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    low, high = b.constant("low", np.float32(-1)), b.constant("high", np.float32(3))
    parts = [b.conv(pooled, f"part{i}", n, 20, kernel=1) for i, n in enumerate((5, 20))]
    joined = b.node("Clip", [b.node("Concat", parts, "joined", axis=1), low, high], "joined")
    scales = b.constant("scales", np.array([1, 1, 2, 3], np.float32))
    up = b.node(
        "Resize",
        [b.node("Relu", [b.conv(joined, "fine", 7, 25)], "fine"), "", scales],
        "up",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    first = b.conv(up, "first", 4, 7, kernel=1)
    mean = b.node("GlobalAveragePool", [b.node("Relu", [b.conv(joined, "m", 9, 25)], "m")], "mean")
    second = b.node("Sigmoid", [b.conv(mean, "second", 6, 9, kernel=1)], "second")
    return _finished(b, first, second)


def tokens() -> tuple[ModelProto, list[NDArray[np.float32]]]:
    """An MLP with GELU written as its operators, softmax in between, then a second MLP."""
    b = GraphBuilder((1, 3, 4, 6))
    flat = b.node("Reshape", ["images", b.constant("shape", np.array([1, 12, 6]))], "flat")

    hidden = _gelu(b, _product(b, flat, "fc1", 6, 33), "act")
    mixed = b.node("Softmax", [_product(b, hidden, "fc2", 33, 8)], "mixed", axis=-1)
    again = _gelu(b, _product(b, mixed, "fc3", 8, 16), "more")
    return _finished(b, _product(b, again, "fc4", 16, 5))


def turns() -> tuple[ModelProto, list[NDArray[np.float32]]]:
    """Maps, then tokens, in three turns; the second also reads what the first left behind."""
    b = GraphBuilder((1, 3, 4, 6))
    stem = b.node("Relu", [b.conv("images", "stem", 8, 3)], "stem")
    mixed = b.node("Softmax", [b.conv(stem, "scores", 8, 8)], "mixed", axis=1)
    sum_ = b.node("Relu", [b.node("Add", [b.conv(mixed, "mix", 8, 8), stem], "skip")], "sum")
    last = b.node("Transpose", [b.conv(sum_, "last", 8, 8)], "last", perm=[0, 2, 3, 1])
    flat = b.node("Reshape", [last, b.constant("shape", np.array([1, 24, 8]))], "flat")
    hidden = _gelu(b, _product(b, flat, "fc1", 8, 20), "act")
    return _finished(b, _product(b, hidden, "fc2", 20, 5))


def _product(b: GraphBuilder, source: str, name: str, inputs: int, outputs: int) -> str:
    weight = b.rng.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
    bias = b.rng.normal(0, 0.3, outputs).astype(np.float32)
    found = b.node("MatMul", [source, b.constant(f"{name}.weight", weight)], name)
    return b.node("Add", [found, b.constant(f"{name}.bias", bias)], name)


def _gelu(b: GraphBuilder, source: str, name: str) -> str:
    root, one, half = (
        b.constant(f"{name}.{word}", np.float32(value))
        for word, value in (("root", np.sqrt(2)), ("one", 1), ("half", 0.5))
    )
    erf = b.node("Erf", [b.node("Div", [source, root], name)], name)
    full = b.node("Mul", [source, b.node("Add", [erf, one], f"{name}.plus")], f"{name}.full")
    return b.node("Mul", [full, half], name)


def _finished(b: GraphBuilder, *outputs: str) -> tuple[ModelProto, list[NDArray[np.float32]]]:
    images = b.images(6)
    return quantised(b.build(*outputs), images[:4]), images
