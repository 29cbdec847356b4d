"""Convolution without a padded copy: tiles at an edge leave out what would read beside the picture.

Weights lie as [panel][row of the kernel][column of the kernel][input channel][output channel of the
panel]. Within a row of the kernel, pixels with channels last lie in the same order, so that a tile
inside the picture runs over columns and channels in one loop, as a matrix product does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from edgemtl.backends.tvm.schedule import nodes
from edgemtl.backends.tvm.schedule.dense import (
    cleared,
    finished,
    multiplied,
    over_panels,
    panels_of,
    registers,
    rows_per_chunk,
)
from edgemtl.backends.tvm.schedule.fused import Finish, Fused
from edgemtl.backends.tvm.schedule.machine import Machine, Tile


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes: batch, input, output, kernel; steps, first padding, dilation."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    planar: bool = False

    def column(self, x: Any, j: int) -> Any:
        """Column of the input that output column ``x`` reads at column ``j`` of the kernel."""
        return x * self.strides[1] - self.padding[1] + j * self.dilation[1]

    def reads(self, x: int, j: int) -> bool:
        """Whether that column is in the picture."""
        return 0 <= int(self.column(x, j)) < self.width

    def inside(self, x: int, count: int) -> bool:
        """Whether ``count`` outputs from ``x`` on read the picture only."""
        return self.reads(x, 0) and self.reads(x + count - 1, self.kernel[1] - 1)

    def rows_may_miss(self) -> bool:
        """Whether some output row reads above or below the picture."""
        last = (self.out_height - 1) * self.strides[0] - self.padding[0]
        last += (self.kernel[0] - 1) * self.dilation[0]
        return self.padding[0] > 0 or last >= self.height


def geometry(spec: dict[str, Any]) -> Geometry:
    """From an annotation."""
    fields = dict(spec["geometry"])
    for key in ("kernel", "strides", "padding", "dilation"):
        fields[key] = tuple(fields[key])
    return Geometry(**fields)


def packed(weights: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(O, I, KH, KW) in the order of the module's text."""
    laid = weights.transpose(2, 3, 1, 0)
    panels = [laid[..., at : at + columns] for at in range(0, weights.shape[0], columns)]
    return np.concatenate([np.ascontiguousarray(panel).reshape(-1) for panel in panels])


def cut_columns(
    width: int, size: int, inside: Callable[[int, int], bool]
) -> tuple[list[tuple[int, int]], tuple[int, int], list[tuple[int, int]]]:
    """Tiles of a row: those before the middle, (first, how many) of the middle, those behind.

    Tiles are (first column, columns). Those of the middle have ``size`` columns, one behind the
    other, and read nothing beside the picture.
    """
    tiles = [(at, min(size, width - at)) for at in range(0, width, size)]
    good = [k for k, (at, n) in enumerate(tiles) if n == size and inside(at, n)]
    if not good:
        return tiles, (0, 0), []
    first, last = good[0], good[-1]
    return tiles[:first], (tiles[first][0], last - first + 1), tiles[last + 1 :]


def over_columns(
    width: int,
    size: int,
    inside: Callable[[int, int], bool],
    tile_of: Callable[[Any, int], list[Any]],
) -> list[Any]:
    """Statements for a row of tiles; ``tile_of`` gets a plain number where the picture may end."""
    before, (start, many), behind = cut_columns(width, size, inside)
    made: list[Any] = []
    for at, n in before:
        made += tile_of(at, n)
    made += nodes.loop("tile", many, lambda t: tile_of(t * size + start, size))
    for at, n in behind:
        made += tile_of(at, n)
    return made


def row_guard(shape: Geometry, y: Any, i: Any, body: Callable[[Any], list[Any]]) -> list[Any]:
    """``body(input row)`` where row ``i`` of the kernel lies in the picture."""
    row = y * shape.strides[0] - shape.padding[0] + i * shape.dilation[0]
    if not shape.rows_may_miss():
        return body(row)
    return nodes.when(tirx.all(row >= 0, row < shape.height), body(row))


def conv(fused: Fused, machine: Machine) -> Any:
    """The function of a convolution over all channels."""
    spec, shape = fused.spec, geometry(fused.spec)
    columns, tile = spec["columns"], Tile(*spec["tile"])
    (kh, kw), channels = shape.kernel, shape.channels
    source, declared = _view(fused.inputs[0], shape)
    weights, finish = fused.inputs[1], Finish(fused)
    depth = kh * kw * channels

    def pixel(image: Any, row: Any, column: Any, k: Any) -> Any:
        if shape.planar:
            return nodes.load(source, (image * channels + k, row * shape.width + column))
        return nodes.load(source, (image * shape.height + row, column * channels + k))

    def tile_of(image: Any, y: Any, x: Any, height: int, panel: Any, width: int) -> list[Any]:
        acc, alloc = registers(height, width)
        base = panel * (tile.columns * depth)
        joined = not isinstance(x, int) and not shape.planar and shape.dilation[1] == 1

        def kernel_row(i: Any) -> list[Any]:
            def step(row: Any, j: Any, k: Any) -> list[Any]:
                rows = [m for m in range(height) if not isinstance(x, int) or shape.reads(x + m, j)]
                start = base + ((i * kw + j) * channels + k) * width
                return multiplied(
                    acc,
                    rows,
                    width,
                    machine.lanes,
                    lambda m: pixel(image, row, shape.column(x + m, j), k),
                    lambda at, n: nodes.load(weights, (start + at,), n),
                )

            def at_row(row: Any) -> list[Any]:
                if joined:
                    return nodes.loop("k", kw * channels, lambda k: step(row, 0, k))
                made: list[Any] = []
                for j in range(kw):
                    if not isinstance(x, int) or any(shape.reads(x + m, j) for m in range(height)):
                        made += nodes.loop("k", channels, partial(step, row, j))
                return made or [nodes.nothing()]

            return row_guard(shape, y, i, at_row)

        first = (image * shape.out_height + y) * shape.out_width + x
        return [
            alloc,
            *cleared(acc, height, width, machine.lanes),
            *nodes.loop("i", kh, kernel_row),
            *finished(acc, height, width, machine.lanes, first, panel * tile.columns, finish),
        ]

    def row_of(line: Any, panel: Any, width: int) -> list[Any]:
        image, y = split_row(line, shape)
        return over_columns(
            shape.out_width,
            tile.rows,
            shape.inside,
            lambda x, height: tile_of(image, y, x, height, panel, width),
        )

    lines = shape.batch * shape.out_height
    line_bytes = 4 * shape.width * channels * shape.strides[0]
    work = lines * shape.out_width * columns * depth
    panels = panels_of(columns, tile.columns)
    body = over_lines(lines, line_bytes, work, machine, panels, row_of)
    return nodes.function(fused.parameters, [declared, *finish.declared, *body])


def split_row(line: Any, shape: Geometry) -> tuple[Any, Any]:
    """(image, output row) of a line of the batch."""
    if shape.batch == 1:
        return nodes.integer(0), line
    return tirx.floordiv(line, shape.out_height), tirx.floormod(line, shape.out_height)


def over_lines(
    lines: int,
    line_bytes: int,
    work: int,
    machine: Machine,
    panels: list[tuple[int, int, int]],
    row_of: Callable[[Any, Any, int], list[Any]],
) -> list[Any]:
    """Loops around an output row: chunks of rows, panels, rows."""
    per, parallel = rows_per_chunk(lines, line_bytes, work, machine)
    pieces = -(-lines // per)

    def chunk(piece: Any) -> list[Any]:
        begin = piece * per
        count: Any = per
        if lines % per:
            count = tirx.min(nodes.integer(per), lines - begin)

        def lines_of(panel: Any, width: int) -> list[Any]:
            return nodes.loop("line", count, lambda line: row_of(begin + line, panel, width))

        return over_panels(panels, lines_of)

    return nodes.loop("chunk", pieces, chunk, nodes.PARALLEL if parallel else nodes.SERIAL)


def _view(of: Any, shape: Geometry) -> tuple[Any, Any]:
    if shape.planar:
        sizes = (shape.batch * shape.channels, shape.height * shape.width)
    else:
        sizes = (shape.batch * shape.height, shape.width * shape.channels)
    return nodes.view(of, sizes, "source")
