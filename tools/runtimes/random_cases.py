"""Nodes with random attributes; the answer counts where two independent programs agree on it.

The two are the evaluator of the package ``onnx`` and ONNX Runtime with its optimisations off. Where
they differ the case is left out: nobody says then who is right.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.cases import Case, difference, packed

#: operator, its inputs (the first is the picture), attributes; None: this draw makes no sense
Drawn = tuple[str, list[NDArray[Any] | None], dict[str, Any]]
Draw = Callable[[random.Random, np.random.Generator, int], Drawn | None]
OPSETS = (13, 17, 17, 18, 20)
VARIANTS = ("constants", "packed")


def _floats(numbers: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return numbers.normal(0, 1, shape).astype(np.float32)


def _whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _image(rng: random.Random, numbers: np.random.Generator) -> NDArray[np.float32]:
    channels = rng.choice((2, 4, 6, 8))
    return _floats(numbers, 1, channels, rng.randint(5, 12), rng.randint(5, 12))


def _window(rng: random.Random) -> dict[str, Any]:
    kernel = [rng.choice((1, 2, 3, 4)) for _ in "hw"]
    window: dict[str, Any] = {"kernel_shape": kernel}
    if rng.random() < 0.8:
        window["strides"] = [rng.choice((1, 2, 3)) for _ in "hw"]
    if rng.random() < 0.25:
        window["auto_pad"] = rng.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif rng.random() < 0.7:
        window["pads"] = [rng.randint(0, size // 2) for size in kernel * 2]
    return window


def _pool(op: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        window = _window(rng)
        if rng.random() < 0.5 and "auto_pad" not in window:
            window["ceil_mode"] = 1
        if op == "AveragePool" and rng.random() < 0.5:
            window["count_include_pad"] = 1
        if rng.random() < 0.2 and (op == "MaxPool" or opset > 18):
            window["dilations"] = [rng.choice((1, 2)) for _ in "hw"]
        if op == "LpPool":
            if "ceil_mode" in window and opset < 18:
                return None
            window["p"] = rng.choice((1, 2, 3))
        return op, [_image(rng, numbers)], window

    return draw


def _conv(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    image, window = _image(rng, numbers), _window(rng)
    if rng.random() < 0.3:
        window["dilations"] = [rng.choice((1, 2)) for _ in "hw"]
    channels = image.shape[1]
    window["group"] = rng.choice((1, 1, 2, channels))
    made = window["group"] * rng.choice((1, 2))
    weight = _floats(numbers, made, channels // window["group"], *window["kernel_shape"])
    return "Conv", [image, weight, _floats(numbers, made)], window


def _conv_transpose(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    image, window = _image(rng, numbers), _window(rng)
    strides = window.setdefault("strides", [1, 1])
    if rng.random() < 0.3:
        window["dilations"] = [rng.choice((1, 2)) for _ in "hw"]
    kind = rng.random()
    if kind < 0.3:
        window["output_padding"] = [rng.randint(0, step - 1) for step in strides]
    elif kind < 0.6:
        window.pop("pads", None)
        sizes = zip(image.shape[2:], strides, strict=True)
        window["output_shape"] = [size * step + rng.randint(0, 1) for size, step in sizes]
    window["group"] = rng.choice((1, 1, 2))
    channels = image.shape[1]
    made = rng.choice((1, 2, 3))
    weight = _floats(numbers, channels, made, *window["kernel_shape"])
    return "ConvTranspose", [image, weight, _floats(numbers, made * window["group"])], window


def _resize(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    image = _image(rng, numbers)
    asked: dict[str, Any] = {"mode": rng.choice(("nearest", "linear", "linear", "cubic"))}
    ways = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
    ways += ["half_pixel_symmetric"] if opset > 18 else []
    asked["coordinate_transformation_mode"] = rng.choice(ways)
    if asked["mode"] == "nearest":
        rounding = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        asked["nearest_mode"] = rng.choice(rounding)
    if asked["mode"] == "cubic":
        asked["cubic_coeff_a"] = rng.choice((-0.75, -0.5))
        if rng.random() < 0.3:
            asked["exclude_outside"] = 1
    if opset > 17 and asked["mode"] != "nearest" and rng.random() < 0.3:
        asked["antialias"] = 1
    if rng.random() < 0.5:
        pick = (0.5, 0.6, 0.8, 1.3, 1.5, 2.0, 2.5, 3.0)
        scales = np.array([1, 1, rng.choice(pick), rng.choice(pick)], np.float32)
        return "Resize", [image, None, scales], asked
    sizes = [max(1, round(n * rng.choice((0.5, 0.7, 1, 1.6, 2, 3)))) for n in image.shape[2:]]
    return "Resize", [image, None, None, _whole(*image.shape[:2], *sizes)], asked


def _reduce(op: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        image = _image(rng, numbers)
        if op in ("LogSum", "Prod"):
            image = np.abs(image) + np.float32(0.5)
        axes = rng.choice(([1], [2, 3], [-1], [1, 2, 3], [0, 2], None))
        asked: dict[str, Any] = {"keepdims": rng.choice((0, 1))}
        if axes is None:
            return f"Reduce{op}", [image], asked
        if opset < (13 if op == "Sum" else 18):
            return f"Reduce{op}", [image], {**asked, "axes": axes}
        return f"Reduce{op}", [image, _whole(*axes)], asked

    return draw


def _unary(op: str, *names: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        asked = {name: round(rng.uniform(0.05, 2), 2) for name in names if rng.random() < 0.7}
        return op, [_image(rng, numbers)], asked

    return draw


def _axis(op: str, **more: tuple[Any, ...]) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        asked = {name: rng.choice(values) for name, values in more.items()}
        return op, [_image(rng, numbers)], {"axis": rng.choice((-1, 1, 2, 3)), **asked}

    return draw


def _blocks(op: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        if op == "SpaceToDepth":
            return op, [_floats(numbers, 1, rng.randint(1, 4), 6, 12)], {"blocksize": 2}
        asked: dict[str, Any] = {"blocksize": 2, "mode": rng.choice(("DCR", "CRD"))}
        return op, [_floats(numbers, 1, rng.choice((4, 8)), 5, 6)], asked

    return draw


def _pad(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    modes = ("constant", "reflect", "edge", *(("wrap",) if opset > 18 else ()))
    pads = _whole(
        0, 0, *(rng.randint(0, 3) for _ in "hw"), 0, 0, *(rng.randint(0, 3) for _ in "hw")
    )
    mode = rng.choice(modes)
    extra: list[NDArray[Any] | None] = [np.array(1.5, np.float32)] if mode == "constant" else []
    return "Pad", [_image(rng, numbers), pads, *extra], {"mode": mode}


def _slice(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    step = rng.choice((1, 2, -1, -2))
    start, end = (1, 4) if step > 0 else (-1, -5)
    axis = rng.choice((1, 2, 3, -1))
    image = _floats(numbers, 1, 6, 7, 8)
    return "Slice", [image, _whole(start), _whole(end), _whole(axis), _whole(step)], {}


def _grid_sample(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    if opset < 16:
        return None
    grid = numbers.uniform(-1.3, 1.3, (1, 4, 5, 2)).astype(np.float32)
    modes = ("bilinear", "nearest", "bicubic") if opset < 20 else ("linear", "nearest", "cubic")
    asked = {
        "mode": rng.choice(modes),
        "padding_mode": rng.choice(("zeros", "border", "reflection")),
        "align_corners": rng.choice((0, 1)),
    }
    return "GridSample", [_image(rng, numbers), grid], asked


def _roi_align(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    boxes = np.sort(numbers.uniform(0, 8, (3, 2, 2)).astype(np.float32), axis=1).reshape(3, 4)
    asked: dict[str, Any] = {
        "mode": rng.choice(("avg", "max")),
        "output_height": rng.choice((2, 3)),
        "output_width": rng.choice((2, 3)),
        "sampling_ratio": rng.choice((1, 2)),
        "spatial_scale": rng.choice((1.0, 0.5)),
    }
    if opset >= 16:
        asked["coordinate_transformation_mode"] = rng.choice(("half_pixel", "output_half_pixel"))
    return "RoiAlign", [_image(rng, numbers), boxes, _whole(0, 0, 0)], asked


def _top_k(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked = {"axis": rng.choice((-1, 1, 2)), "largest": rng.choice((0, 1))}
    return "TopK", [_floats(numbers, 2, 6, 7), _whole(rng.randint(1, 5))], asked


def _cum_sum(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked = {"exclusive": rng.choice((0, 1)), "reverse": rng.choice((0, 1))}
    axis = np.array(rng.choice((0, 1, -1)), np.int64)
    return "CumSum", [_floats(numbers, 3, 5), axis], asked


def _scatter(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    kinds = ["none", "add", "mul"] if opset >= 16 else []
    kinds += ["max", "min"] if opset >= 18 else []
    asked: dict[str, Any] = {"axis": rng.choice((0, 1))}
    if kinds:
        asked["reduction"] = rng.choice(kinds)
    places = _whole(0, 2, 1, 1, 0, 2).reshape(2, 3)
    if asked.get("reduction", "none") == "none":
        places = _whole(0, 1, 2, 1, 2, 0).reshape(2, 3)
    return "ScatterElements", [_floats(numbers, 3, 4), places, _floats(numbers, 2, 3)], asked


def _gather(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked = {"axis": rng.choice((1, 2, -1))}
    return "Gather", [_floats(numbers, 2, 4, 5), _whole(0, -1, 2)], asked


def _norm(op: str, since: int = 0) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        if opset < since:
            return None
        image = _image(rng, numbers)
        channels = image.shape[1]
        asked: dict[str, Any] = {"epsilon": rng.choice((1e-5, 1e-3))}
        scale, shift = (_floats(numbers, channels) for _ in "ab")
        if op == "LayerNormalization":
            axis = rng.choice((-1, 2, 1))
            shape = image.shape[axis:]
            return op, [image, _floats(numbers, *shape), _floats(numbers, *shape)], {
                **asked, "axis": axis,
            }  # fmt: skip
        if op == "BatchNormalization":
            spread = np.abs(_floats(numbers, channels)) + np.float32(0.1)
            return op, [image, scale, shift, _floats(numbers, channels), spread], asked
        return op, [image, scale, shift], asked

    return draw


def _lrn(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked = {"size": rng.choice((1, 3, 5)), "alpha": rng.choice((1e-4, 0.1)), "beta": 0.75}
    return "LRN", [_image(rng, numbers)], {**asked, "bias": rng.choice((1.0, 2.0))}


def _lp_norm(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked = {"axis": rng.choice((-1, 1, 2)), "p": rng.choice((1, 2))}
    return "LpNormalization", [_image(rng, numbers)], asked


def _gemm(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    asked: dict[str, Any] = {"transA": rng.choice((0, 1)), "transB": rng.choice((0, 1))}
    asked |= {"alpha": rng.choice((1.0, 0.5)), "beta": rng.choice((1.0, 0.25))}
    a = _floats(numbers, *((4, 3) if asked["transA"] else (3, 4)))
    b = _floats(numbers, *((5, 4) if asked["transB"] else (4, 5)))
    c = rng.choice((_floats(numbers, 5), _floats(numbers, 3, 1), _floats(numbers, 3, 5), None))
    return "Gemm", [a, b, *([] if c is None else [c])], asked


def _recurrent(op: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
        way = rng.choice(("forward", "reverse", "bidirectional"))
        both = 2 if way == "bidirectional" else 1
        layout = rng.choice((0, 0, 1)) if opset >= 14 else 0
        asked: dict[str, Any] = {"hidden_size": 3, "direction": way}
        if layout:
            asked["layout"] = 1
        if op == "GRU":
            asked["linear_before_reset"] = rng.choice((0, 1))
        x = _floats(numbers, *((2, 5, 4) if layout else (5, 2, 4)))
        w, r = _floats(numbers, both, gates * 3, 4), _floats(numbers, both, gates * 3, 3)
        return op, [x, w, r, _floats(numbers, both, gates * 6)], asked

    return draw


def _is_inf(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    values = np.array([[1, np.inf, -np.inf, np.nan, 0]], np.float32)
    asked = {"detect_negative": rng.choice((0, 1)), "detect_positive": rng.choice((0, 1))}
    return "IsInf", [values], asked


def _mod(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    return "Mod", [_floats(numbers, 3, 4) * 5, _floats(numbers, 3, 4) + 4], {"fmod": 1}


def _trilu(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    if opset < 14:
        return None
    k = np.array(rng.choice((-1, 0, 2)), np.int64)
    return "Trilu", [_floats(numbers, 2, 4, 5), k], {"upper": rng.choice((0, 1))}


def _arg(op: str) -> Draw:
    def draw(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
        image = np.round(_image(rng, numbers))
        asked = {"axis": rng.choice((1, 2, -1)), "keepdims": rng.choice((0, 1))}
        return op, [image], {**asked, "select_last_index": rng.choice((0, 1))}

    return draw


def _clip(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    low, high = np.array(-0.5, np.float32), np.array(0.7, np.float32)
    return "Clip", [_image(rng, numbers), *rng.choice(([low, high], [low], [None, high]))], {}


def _split(rng: random.Random, numbers: np.random.Generator, opset: int) -> Drawn | None:
    return "Split", [_floats(numbers, 1, 6, 6), _whole(2, 4)], {"axis": rng.choice((1, 2, -1))}


_REDUCED = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
#: operator -> how it is drawn
DRAWS: Mapping[str, Draw] = {
    "AveragePool": _pool("AveragePool"),
    "MaxPool": _pool("MaxPool"),
    "LpPool": _pool("LpPool"),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Resize": _resize,
    **{f"Reduce{op}": _reduce(op) for op in _REDUCED},
    **{op: _unary(op) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "HardSwish", "Erf", "Abs")},
    **{op: _unary(op, "alpha") for op in ("Elu", "LeakyRelu", "ThresholdedRelu", "Celu")},
    "HardSigmoid": _unary("HardSigmoid", "alpha", "beta"),
    "Selu": _unary("Selu", "alpha", "gamma"),
    "Shrink": _unary("Shrink", "lambd", "bias"),
    **{op: _axis(op) for op in ("Softmax", "LogSoftmax", "Hardmax", "Flatten")},
    "ArgMax": _arg("ArgMax"),
    "ArgMin": _arg("ArgMin"),
    "DepthToSpace": _blocks("DepthToSpace"),
    "SpaceToDepth": _blocks("SpaceToDepth"),
    "Pad": _pad,
    "Slice": _slice,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "TopK": _top_k,
    "CumSum": _cum_sum,
    "ScatterElements": _scatter,
    "Gather": _gather,
    "LayerNormalization": _norm("LayerNormalization", 17),
    "BatchNormalization": _norm("BatchNormalization"),
    "InstanceNormalization": _norm("InstanceNormalization"),
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
    "Gemm": _gemm,
    **{op: _recurrent(op) for op in ("LSTM", "GRU", "RNN")},
    "IsInf": _is_inf,
    "Mod": _mod,
    "Trilu": _trilu,
    "Clip": _clip,
    "Split": _split,
}


def cases(each: int, seed: int) -> Iterator[Case]:
    """``each`` draws of every operator; the same seed gives the same cases."""
    for op, draw in DRAWS.items():
        for number in range(each):
            rng = random.Random(f"{seed}/{op}/{number}")
            numbers = np.random.default_rng(rng.getrandbits(32))
            opset = rng.choice(OPSETS)
            drawn = draw(rng, numbers, opset)
            variant = VARIANTS[number % len(VARIANTS)]
            if drawn is not None:
                made = _case(f"random/{op}-{seed}-{number}/{variant}", drawn, opset, variant)
                if made is not None:
                    yield made


def _case(name: str, drawn: Drawn, opset: int, variant: str) -> Case | None:
    from onnx import TensorProto, checker, helper, numpy_helper

    op, values, attributes = drawn
    names = ["" if value is None else f"x{index}" for index, value in enumerate(values)]
    given = {n: v for n, v in zip(names, values, strict=True) if v is not None}
    floats = [n for n, v in given.items() if v.dtype == np.float32 and v.ndim]
    if op == "Resize":  # its scales stay constants: shapes depend on them
        floats = ["x0"]
    free = floats[:1] if variant == "constants" else floats
    stored = [numpy_helper.from_array(v, n) for n, v in given.items() if n not in free]
    parts = [attributes.pop("parts")] if "parts" in attributes else [1]
    outputs = [f"y{i}" for i in range(2 if op in ("TopK", "Split") else parts[0])]
    nodes = [helper.make_node(op, names, outputs, "asked", **attributes)]
    image, feed = given[free[0]], free[0]
    if variant == "packed":
        image, cutting, constants = packed([(n, given[n]) for n in free])
        nodes, stored, feed = [*cutting, *nodes], [*stored, *constants], "packed"
    declared = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs]
    entry = helper.make_tensor_value_info(feed, TensorProto.FLOAT, image.shape)
    graph = helper.make_graph(nodes, "random", [entry], declared, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    witness = None
    if op == "ConvTranspose":  # the evaluator lacks groups
        witness = [transposed(given["x0"], given["x1"], given["x2"], attributes)]
    wanted = _agreed(model, feed, image, witness)
    if wanted is None:
        return None
    for value, array in zip(model.graph.output, wanted, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
    try:
        checker.check_model(model)
    except Exception:  # the draw was not valid after all
        return None
    data = model.SerializeToString(deterministic=True)
    return Case(name, data, image, wanted, relative=1e-3, absolute=1e-5)


def transposed(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    asked: Mapping[str, Any],
) -> NDArray[np.float32]:
    """ConvTranspose-11 by its definition: every input adds its kernel to the output."""
    kernel = weight.shape[2:]
    steps, spread = asked.get("strides", [1, 1]), asked.get("dilations", [1, 1])
    more, group = asked.get("output_padding", [0, 0]), asked.get("group", 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True)]
    whole = [
        s * (n - 1) + r + o for s, n, r, o in zip(steps, x.shape[2:], reach, more, strict=True)
    ]
    auto, pads = asked.get("auto_pad", "NOTSET"), list(asked.get("pads", [0] * 4))
    sizes = [w - a - b for w, a, b in zip(whole, pads[:2], pads[2:], strict=True)]
    if auto.startswith("SAME"):
        sizes = [n * s for n, s in zip(x.shape[2:], steps, strict=True)]
    if "output_shape" in asked or auto.startswith("SAME"):
        sizes = list(asked.get("output_shape", sizes))
        total = [w - n for w, n in zip(whole, sizes, strict=True)]
        less = [t // 2 for t in total]
        rest = [t - n for t, n in zip(total, less, strict=True)]
        pads = [*less, *rest] if auto == "SAME_UPPER" else [*rest, *less]
    inputs, outputs = x.shape[1] // group, weight.shape[1]
    full = np.zeros((x.shape[0], outputs * group, *(w + 64 for w in whole)), np.float64)
    for g in range(group):
        part = x[:, g * inputs : (g + 1) * inputs].astype(np.float64)
        own = full[:, g * outputs : (g + 1) * outputs]
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                at = np.einsum(
                    "bchw,co->bohw", part, weight[g * inputs : (g + 1) * inputs, :, i, j]
                )
                top, left = i * spread[0] + 32, j * spread[1] + 32
                rows = slice(top, top + steps[0] * x.shape[2], steps[0])
                columns = slice(left, left + steps[1] * x.shape[3], steps[1])
                own[:, :, rows, columns] += at
    first = [32 + p for p in pads[:2]]
    cut = full[:, :, first[0] : first[0] + sizes[0], first[1] : first[1] + sizes[1]]
    return (cut + bias.reshape(1, -1, 1, 1)).astype(np.float32)


def _agreed(
    model: Any,
    feed: str,
    image: NDArray[np.float32],
    witness: list[NDArray[Any]] | None,
) -> tuple[NDArray[Any], ...] | None:
    """What the evaluator (or another witness) and ONNX Runtime agree on; None where they differ."""
    import onnxruntime
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            told = witness or ReferenceEvaluator(model).run(None, {feed: image})
        wanted = [np.asarray(array) for array in told]
        for value, array in zip(model.graph.output, wanted, strict=True):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        second = session.run(None, {feed: image})
    except Exception:  # one of the two cannot say: the other alone is no witness
        return None
    asked = Case("", b"", image, tuple(wanted), 1e-3, 1e-5)
    return tuple(wanted) if not difference(asked, second) else None
