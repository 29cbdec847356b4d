"""Relax calls replaced by operators of ours, whose constant weights are packed for their tiles.

A replaced call is an ordinary tensor expression that carries an annotation: TVM fuses what follows
into it, and templates.py writes its loops. Its expression says the same as the loops do, so that a
function that no template takes still computes the right thing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import ir, relax, te, tirx, topi

from edgemtl.backends.tvm.schedule import conv, dense, nodes, rows
from edgemtl.backends.tvm.schedule.conv import Geometry
from edgemtl.backends.tvm.schedule.fused import MARK
from edgemtl.backends.tvm.schedule.machine import Machine, Tile, best
from edgemtl.backends.tvm.schedule.tuned import Tuned

#: a picture with so few planes is read as it lies, which saves its transposition
PLANES = 4


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Static shape of a tensor; None where it is not one, or not static."""
    shape = getattr(value.ty, "shape", None)
    values = getattr(shape, "values", None)
    if values is None or any(not isinstance(n, tirx.IntImm) for n in values):
        return None
    return tuple(int(n) for n in values)


def constant(value: Any) -> NDArray[Any] | None:
    """A constant's values."""
    return value.value.numpy() if isinstance(value, ir.GenericConst) else None


def _is_float(*values: Any) -> bool:
    return all(str(getattr(value.ty, "dtype", "")) == "float32" for value in values)


@relax.expr_functor.mutator
class Operators(relax.PyExprMutator):  # type: ignore[misc] # TVM has no types
    """The pass.

    Args:
        module: in which convolutions read NHWC, and kernels lie as OIHW.
        machine: that loops are shaped for.
        tuned: tiles that were measured.
    """

    def __init__(self, module: Any, machine: Machine, tuned: Tuned) -> None:
        super().__init__(module)
        self._machine = machine
        self._tuned = tuned

    def visit_call_(self, call: Any) -> Any:
        """One call, its arguments replaced already."""
        visited = self.visit_expr_post_order(call)
        name = getattr(visited.op, "name", "")
        rule = _RULES.get(name)
        made = getattr(self, rule)(visited) if rule and _is_float(*_tensors(visited)) else None
        return visited if made is None else made

    def tile(self, kind: str, height: int, columns: int, depth: int, sizes: Sequence[int]) -> Tile:
        """The measured tile of an operator, or the one that the cost rule likes."""
        known = self._tuned.tile(kind, sizes)
        return known or best(height, columns, depth, self._machine)

    def emit(self, compute: Any, *values: Any, name: str) -> Any:
        """A call of a tensor expression."""
        return self.builder_.call_te(compute, *values, primfunc_name_hint=name)

    def call(self, function: Any, values: Sequence[Any], like: Any, name: str) -> Any:
        """A call of a function that is already loops."""
        variable = self.builder_.add_func(function.with_attr("op_pattern", 8), name)
        return relax.call_tir(variable, list(values), out_ty=like.ty)

    def _conv2d(self, call: Any) -> Any:
        data, weights, attrs = call.args[0], constant(call.args[1]), call.attrs
        shape, result = shape_of(data), shape_of(call)
        layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
        if (
            weights is None
            or shape is None
            or result is None
            or layouts
            != (
                "NHWC",
                "OIHW",
                "NHWC",
            )
        ):
            return None
        sides = [int(n) for n in attrs.padding]
        geometry = Geometry(
            shape[0],
            shape[1],
            shape[2],
            shape[3],
            result[1],
            result[2],
            (int(weights.shape[2]), int(weights.shape[3])),
            (int(attrs.strides[0]), int(attrs.strides[1])),
            (sides[0], sides[1]),
            (int(attrs.dilation[0]), int(attrs.dilation[1])),
        )
        if int(attrs.groups) == 1:
            return self._full(data, weights, geometry, result)
        if int(attrs.groups) == shape[3] == weights.shape[0] and weights.shape[1] == 1:
            return self._depthwise(data, weights, geometry, result)
        return None

    def _full(
        self, data: Any, weights: NDArray[np.float32], shape: Geometry, result: Sequence[int]
    ) -> Any:
        columns = int(weights.shape[0])
        plain = shape.kernel == (1, 1) and shape.strides == (1, 1) and shape.padding == (0, 0)
        if plain and result[1:3] == (shape.height, shape.width):
            return self._product(data, weights[:, :, 0, 0].T, result, "pointwise")
        depth = shape.kernel[0] * shape.kernel[1] * shape.channels
        sizes = [*result, shape.channels, *shape.kernel, *shape.strides]
        tile = self.tile("conv", shape.out_width, columns, depth, sizes)
        source = self._planes(data) if shape.channels <= PLANES else None
        if source is not None:
            data = source
            shape = Geometry(**{**vars(shape), "planar": True})
        spec = {
            "kind": "conv",
            "geometry": asdict(shape),
            "columns": columns,
            "tile": [tile.rows, tile.columns],
            "sizes": sizes,
            "macs": int(np.prod(result)) * depth,
        }
        laid = relax.const(conv.packed(weights, tile.columns))
        return self.emit(
            lambda x, w: conv_expression(x, w, shape, columns, tile.columns, spec),
            data,
            laid,
            name="edge_conv",
        )

    def _planes(self, data: Any) -> Any:
        bound = self.lookup_binding(data) if isinstance(data, relax.Var) else None
        if getattr(getattr(bound, "op", None), "name", "") != "relax.permute_dims":
            return None
        assert bound is not None
        axes = [int(n) for n in bound.attrs.axes]
        return bound.args[0] if axes == [0, 2, 3, 1] else None

    def _depthwise(
        self, data: Any, weights: NDArray[np.float32], shape: Geometry, result: Sequence[int]
    ) -> Any:
        kh, kw = shape.kernel
        spec = {
            "kind": "depthwise",
            "geometry": asdict(shape),
            "macs": int(np.prod(result)) * kh * kw,
        }
        laid = relax.const(np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0)))

        def compute(x: Any, w: Any) -> Any:
            i, j = _axis(kh, "i"), _axis(kw, "j")
            return te.compute(
                _sizes(result),
                lambda n, y, z, c: te.sum(
                    _pixel(x, shape, n, y, z, i, j, c) * w[i, j, c], axis=[i, j]
                ),
                name="edge_depthwise",
                attrs={MARK: json.dumps(spec)},
            )

        return self.emit(compute, data, laid, name="edge_depthwise")

    def _product(
        self, data: Any, matrix: NDArray[np.float32], result: Sequence[int], kind: str
    ) -> Any:
        depth, columns = matrix.shape
        height = int(np.prod(result[:-1]))
        sizes = [height, columns, depth]
        tile = self.tile("dense", height, columns, depth, sizes)
        spec = {
            "kind": "dense",
            "name": kind,
            "rows": height,
            "columns": columns,
            "depth": depth,
            "tile": [tile.rows, tile.columns],
            "sizes": sizes,
            "macs": height * columns * depth,
        }
        laid = relax.const(dense.packed(np.ascontiguousarray(matrix), tile.columns))

        def compute(x: Any, w: Any) -> Any:
            k = _axis(depth, "k")
            return te.compute(
                _sizes(result),
                lambda *at: te.sum(
                    x(*at[:-1], k) * w[_panel(at[-1], k, depth, columns, tile.columns)], axis=[k]
                ),
                name=f"edge_{kind}",
                attrs={MARK: json.dumps(spec)},
            )

        return self.emit(compute, data, laid, name=f"edge_{kind}")

    def _matmul(self, call: Any) -> Any:
        a, b, result = shape_of(call.args[0]), shape_of(call.args[1]), shape_of(call)
        if a is None or b is None or result is None or len(a) < 2 or len(b) < 2:
            return None
        matrix = constant(call.args[1])
        if matrix is not None and len(b) == 2:
            return self._product(call.args[0], matrix, result, "matmul")
        if a[:-2] != b[:-2]:
            return None
        height, columns, depth = a[-2], b[-1], a[-1]
        batch = int(np.prod(a[:-2])) if len(a) > 2 else 1
        sizes = [batch, height, columns, depth]
        tile = self.tile("batched", height, columns, depth, sizes)
        spec = {
            "kind": "batched",
            "batch": batch,
            "rows": height,
            "columns": columns,
            "depth": depth,
            "tile": [tile.rows, tile.columns],
            "sizes": sizes,
            "macs": batch * height * columns * depth,
        }

        def compute(x: Any, y: Any) -> Any:
            k = _axis(depth, "k")
            return te.compute(
                _sizes(result),
                lambda *at: te.sum(x(*at[:-1], k) * y(*at[:-2], k, at[-1]), axis=[k]),
                name="edge_batched",
                attrs={MARK: json.dumps(spec)},
            )

        return self.emit(compute, call.args[0], call.args[1], name="edge_batched")

    def _softmax(self, call: Any) -> Any:
        shape = shape_of(call.args[0])
        if shape is None or int(call.attrs.axis) not in (-1, len(shape) - 1):
            return None
        return self.call(rows.softmax(shape, self._machine), call.args, call, "edge_softmax")

    def _layer_norm(self, call: Any) -> Any:
        shape = shape_of(call.args[0])
        axes = [int(n) for n in call.attrs.axes]
        scaled = bool(call.attrs.center) and bool(call.attrs.scale)
        if shape is None or not scaled or axes not in ([-1], [len(shape) - 1]):
            return None
        function = rows.layer_norm(shape, float(call.attrs.epsilon), self._machine)
        return self.call(function, call.args, call, "edge_layer_norm")

    def _concat(self, call: Any) -> Any:
        parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        shapes = [shape_of(part) for part in parts]
        if len(parts) < 2 or not _is_float(*parts) or any(shape is None for shape in shapes):
            return None
        known = [shape for shape in shapes if shape is not None]
        axis = int(call.attrs.axis) % len(known[0])
        function = rows.concatenation(known, axis, self._machine)
        return self.call(function, parts, call, "edge_concat")

    def _smooth(self, call: Any) -> Any:
        """Functions that the processor has no instruction for, as polynomials."""
        compute = _SMOOTH[call.op.name]
        name = str(call.op.name).rpartition(".")[2]
        return self.emit(compute, call.args[0], name=f"edge_{name}")


def _sizes(shape: Sequence[int]) -> tuple[Any, ...]:
    return tuple(nodes.integer(n) for n in shape)


def _axis(extent: int, name: str) -> Any:
    return te.reduce_axis((nodes.integer(0), nodes.integer(extent)), name)


def _tensors(call: Any) -> list[Any]:
    return [value for value in call.args if hasattr(value.ty, "dtype")]


def _sigmoid(x: Any) -> Any:
    minus = topi.fast_exp(topi.negative(x))
    return topi.divide(tirx.const(1.0, "float32"), topi.add(minus, tirx.const(1.0, "float32")))


_SMOOTH = {
    "relax.exp": topi.fast_exp,
    "relax.erf": topi.fast_erf,
    "relax.tanh": topi.fast_tanh,
    "relax.sigmoid": _sigmoid,
    "relax.nn.silu": lambda x: topi.multiply(x, _sigmoid(x)),
}

#: by name: TVM's decorator hides the methods
_RULES = {
    "relax.nn.conv2d": "_conv2d",
    "relax.matmul": "_matmul",
    "relax.nn.softmax": "_softmax",
    "relax.nn.layer_norm": "_layer_norm",
    "relax.concat": "_concat",
    **dict.fromkeys(_SMOOTH, "_smooth"),
}


def _panel(o: Any, step: Any, depth: int, columns: int, width: int) -> Any:
    """Place of column ``o`` at ``step`` of the reduction among packed weights."""
    narrow = columns % width
    start = tirx.floordiv(o, width) * (width * depth) + tirx.floormod(o, width)
    if not narrow:
        return start + step * width
    last = columns - narrow
    return start + step * tirx.Select(
        o < last, tirx.const(width, "int64"), tirx.const(narrow, "int64")
    )


def _pixel(x: Any, shape: Geometry, n: Any, y: Any, z: Any, i: Any, j: Any, c: Any) -> Any:
    row = y * shape.strides[0] - shape.padding[0] + i * shape.dilation[0]
    column = shape.column(z, 0) + j * shape.dilation[1]
    value = x[n, c, row, column] if shape.planar else x[n, row, column, c]
    inside = tirx.all(row >= 0, row < shape.height, column >= 0, column < shape.width)
    return tirx.if_then_else(inside, value, tirx.const(0.0, "float32"))


def conv_expression(
    x: Any, w: Any, shape: Geometry, columns: int, width: int, spec: dict[str, Any]
) -> Any:
    """What a convolution with packed weights computes."""
    kh, kw = shape.kernel
    depth = kh * kw * shape.channels
    i, j = _axis(kh, "i"), _axis(kw, "j")
    k = _axis(shape.channels, "k")
    step = (i * kw + j) * shape.channels + k
    return te.compute(
        _sizes((shape.batch, shape.out_height, shape.out_width, columns)),
        lambda n, y, z, o: te.sum(
            _pixel(x, shape, n, y, z, i, j, k) * w[_panel(o, step, depth, columns, width)],
            axis=[i, j, k],
        ),
        name="edge_conv",
        attrs={MARK: json.dumps(spec)},
    )
