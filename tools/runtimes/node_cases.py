"""The package ``onnx``'s own backend tests of single nodes, made into graphs with one input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.cases import Case, packed

VARIANTS = ("constants", "packed")
#: from this opset on Slice, which takes the packed input apart, reads its ends as inputs
SLICE_OPSET = 10
#: no right answer can be given: the numbers are drawn
_DRAWN = frozenset({"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform"})
_DRAWN |= frozenset({"RandomUniformLike", "Multinomial"})


def cases() -> Iterator[Case]:
    """Every test with a float32 input, in both variants, in the package's order."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        if test.model is None or not test.data_sets:
            continue
        inputs, outputs = test.data_sets[0]
        if not all(_plain(value) for value in (*inputs, *outputs)):
            continue
        if any(node.op_type in _DRAWN for node in test.model.graph.node) or _drops(test.model):
            continue
        named = {v.name: a for v, a in zip(test.model.graph.input, inputs, strict=False)}
        floats = [n for n, a in named.items() if a.dtype == np.float32 and a.size]
        if not floats or any(not a.size for a in outputs):
            continue
        for variant in VARIANTS:
            if variant == "packed" and len(floats) > 1 and _opset(test.model) < SLICE_OPSET:
                continue
            model, image = _one_input(test.model, named, outputs, floats, variant)
            name = f"node/{test.name.removeprefix('test_')}/{variant}"
            yield Case(name, model, image, tuple(outputs), test.rtol, test.atol)


def _opset(model: Any) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _plain(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _drops(model: Any) -> bool:
    """Whether Dropout draws, which it does in training only."""
    return any(node.op_type == "Dropout" and len(node.input) > 2 for node in model.graph.node)


def _one_input(
    source: Any,
    named: Mapping[str, NDArray[Any]],
    outputs: list[NDArray[Any]],
    floats: list[str],
    variant: str,
) -> tuple[bytes, NDArray[np.float32]]:
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    model = ModelProto()
    model.CopyFrom(source)
    graph = model.graph
    free = floats[:1] if variant == "constants" else floats
    del graph.input[:]
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in named.items()
        if name not in free
    )
    if variant == "constants":
        name, image = free[0], named[free[0]]
    else:
        name = "packed"
        image, nodes, constants = packed([(n, named[n]) for n in free])
        graph.initializer.extend(constants)
        own = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *own])
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, image.shape))
    for value, array in zip(graph.output, outputs, strict=True):
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model.SerializeToString(deterministic=True), np.asarray(image, np.float32, order="C")
