"""Softmax, layer norm and concatenation, written out: row by row, on vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from edgemtl.backends.tvm.schedule import nodes
from edgemtl.backends.tvm.schedule.machine import Machine, chunks

#: elements below which a second thread is not worth its start
PARALLEL_FROM = 30_000


def exponential(x: Any, lanes: int) -> Any:
    """exp(x) of float32, within 2 units in the last place between -87 and 88.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7; 2^n by its bits.
    """

    def c(value: float) -> Any:
        return nodes.spread(nodes.real(value), lanes)

    ints = f"int32x{lanes}" if lanes > 1 else "int32"
    floats = f"float32x{lanes}" if lanes > 1 else "float32"
    x = tirx.max(tirx.min(x, c(88.0)), c(-87.0))
    n = tirx.floor(x * c(1.4426950408889634) + c(0.5))
    # ln 2 in two parts: n times the first is exact.
    r = x - n * c(0.693359375) - n * c(-2.12194440e-4)
    p = c(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = p * r + c(factor)
    whole = tirx.Cast(ints, n) + nodes.spread(tirx.IntImm("int32", 127), lanes)
    shifted = whole * nodes.spread(tirx.IntImm("int32", 1 << 23), lanes)
    return p * tirx.reinterpret(floats, shifted)


def _parallel_rows(
    rows: int, width: int, machine: Machine, body: Callable[[Any], list[Any]]
) -> list[Any]:
    if rows * width < PARALLEL_FROM or machine.cores == 1:
        return nodes.loop("row", rows, body)
    per = -(-rows // machine.cores)

    def piece(p: Any) -> list[Any]:
        count = tirx.min(nodes.integer(per), rows - p * per)
        return nodes.loop("row", count, lambda row: body(p * per + row))

    return nodes.loop("piece", -(-rows // per), piece, nodes.PARALLEL)


class _Row:
    """Passes over one row of ``width`` elements."""

    def __init__(self, width: int, lanes: int) -> None:
        self.full = width // lanes
        self.lanes = lanes
        self.rest = [(at, n) for at, n in chunks(width, lanes) if n < lanes]

    def each(self, body: Callable[[Any, int], list[Any]]) -> list[Any]:
        """``body(column, lanes)`` for every vector of the row."""
        made = nodes.loop("v", self.full, lambda v: body(v * self.lanes, self.lanes))
        for at, n in self.rest:
            made += body(nodes.integer(at), n)
        return made

    def reduce(
        self,
        value: Callable[[Any, int], Any],
        join: Callable[[Any, Any], Any],
        start: float,
        before: Callable[[Any, int], list[Any]] | None = None,
    ) -> tuple[list[Any], Any]:
        """Statements that reduce a row, and the buffer whose first element is the result."""
        lanes = self.lanes
        acc, alloc = nodes.scratch(lanes, "part")
        ends, alloc_ends = nodes.scratch(lanes, "ends")
        zero = (nodes.integer(0),)

        def step(v: Any) -> list[Any]:
            first = before(v * lanes, lanes) if before else []
            joined = join(nodes.load(acc, zero, lanes), value(v * lanes, lanes))
            return [*first, nodes.store(acc, zero, joined, lanes)]

        initial = nodes.spread(nodes.real(start), lanes)
        made = [alloc, alloc_ends, nodes.store(acc, zero, initial, lanes)]
        made += nodes.loop("v", self.full, step)
        made.append(nodes.store(ends, zero, nodes.load(acc, zero, lanes), lanes))
        for at, n in self.rest:
            made += before(nodes.integer(at), n) if before else []
            joined = join(nodes.load(ends, zero, n), value(nodes.integer(at), n))
            made.append(nodes.store(ends, zero, joined, n))
        size = lanes
        while size > 1:
            size //= 2
            halves = join(nodes.load(ends, zero, size), nodes.load(ends, (size,), size))
            made.append(nodes.store(ends, zero, halves, size))
        return made, ends


def _add(a: Any, b: Any) -> Any:
    return a + b


def softmax(shape: Sequence[int], machine: Machine) -> Any:
    """Over the last dimension."""
    width, rows = shape[-1], _product(shape[:-1])
    given, made = nodes.buffer(shape, "given"), nodes.buffer(shape, "made")
    source, of_source = nodes.view(given, (rows, width), "source")
    into, of_made = nodes.view(made, (rows, width), "into")
    line = _Row(width, machine.lanes)

    def row_of(row: Any) -> list[Any]:
        def read(at: Any, n: int) -> Any:
            return nodes.load(source, (row, at), n)

        statements, top = line.reduce(read, tirx.max, -3.4e38)
        peak = nodes.load(top, (0,))

        def exponentials(at: Any, n: int) -> list[Any]:
            value = exponential(read(at, n) - nodes.spread(peak, n), n)
            return [nodes.store(into, (row, at), value, n)]

        more, total = line.reduce(
            lambda at, n: nodes.load(into, (row, at), n), _add, 0.0, exponentials
        )
        scale, alloc = nodes.scratch(1, "scale")
        statements += [*more, alloc]
        statements.append(nodes.store(scale, (0,), nodes.real(1.0) / nodes.load(total, (0,))))

        def scaled(at: Any, n: int) -> list[Any]:
            factor = nodes.spread(nodes.load(scale, (0,)), n)
            return [nodes.store(into, (row, at), nodes.load(into, (row, at), n) * factor, n)]

        return [*statements, *line.each(scaled)]

    body = _parallel_rows(rows, 4 * width, machine, row_of)
    return nodes.function([given, made], [of_source, of_made, *body])


def layer_norm(shape: Sequence[int], epsilon: float, machine: Machine) -> Any:
    """Over the last dimension, with scale and shift; variance by a second pass."""
    width, rows = shape[-1], _product(shape[:-1])
    given, made = nodes.buffer(shape, "given"), nodes.buffer(shape, "made")
    gain, shift = nodes.buffer((width,), "gain"), nodes.buffer((width,), "shift")
    source, of_source = nodes.view(given, (rows, width), "source")
    into, of_made = nodes.view(made, (rows, width), "into")
    line = _Row(width, machine.lanes)

    def row_of(row: Any) -> list[Any]:
        def read(at: Any, n: int) -> Any:
            return nodes.load(source, (row, at), n)

        statements, total = line.reduce(read, _add, 0.0)
        mean, alloc = nodes.scratch(1, "mean")
        statements += [
            alloc,
            nodes.store(mean, (0,), nodes.load(total, (0,)) * nodes.real(1 / width)),
        ]

        def centred(at: Any, n: int) -> Any:
            return read(at, n) - nodes.spread(nodes.load(mean, (0,)), n)

        more, squares = line.reduce(lambda at, n: centred(at, n) * centred(at, n), _add, 0.0)
        scale, alloc = nodes.scratch(1, "scale")
        variance = nodes.load(squares, (0,)) * nodes.real(1 / width) + nodes.real(epsilon)
        root = nodes.real(1.0) / tirx.sqrt(variance)
        statements += [*more, alloc, nodes.store(scale, (0,), root)]

        def written(at: Any, n: int) -> list[Any]:
            value = centred(at, n) * nodes.spread(nodes.load(scale, (0,)), n)
            value = value * nodes.load(gain, (at,), n) + nodes.load(shift, (at,), n)
            return [nodes.store(into, (row, at), value, n)]

        return [*statements, *line.each(written)]

    body = _parallel_rows(rows, 2 * width, machine, row_of)
    return nodes.function([given, gain, shift, made], [of_source, of_made, *body])


def concatenation(shapes: Sequence[Sequence[int]], axis: int, machine: Machine) -> Any:
    """Copies stretch by stretch."""
    outer = _product(shapes[0][:axis])
    inner = _product(shapes[0][axis + 1 :])
    runs = [shape[axis] * inner for shape in shapes]
    whole = sum(runs)
    joined = [*shapes[0]]
    joined[axis] = whole // inner
    sources = [nodes.buffer(shape, f"part{k}") for k, shape in enumerate(shapes)]
    made = nodes.buffer(joined, "made")
    into, of_made = nodes.view(made, (outer, whole), "into")
    views = [
        nodes.view(source, (outer, run), f"view{k}")
        for k, (source, run) in enumerate(zip(sources, runs, strict=True))
    ]

    def row_of(row: Any) -> list[Any]:
        statements: list[Any] = []
        start = 0
        for (view, _), run in zip(views, runs, strict=True):

            def copied(at: Any, n: int, view: Any = view, start: int = start) -> list[Any]:
                return [nodes.store(into, (row, at + start), nodes.load(view, (row, at), n), n)]

            statements += _Row(run, machine.lanes).each(copied)
            start += run
        return statements

    body = _parallel_rows(outer, whole, machine, row_of)
    return nodes.function([*sources, made], [of_made, *(said for _, said in views), *body])


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= int(size)
    return total
