"""Matrix products: 1x1 convolutions, fully connected layers, attention's products.

A tile of rows x columns stays in registers over the whole reduction. Constant right-hand sides are
packed into panels as wide as a tile, so that one step of the reduction reads one stretch of
memory; the rows of a chunk stay in the second cache while all panels pass over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.tvm.schedule import nodes
from edgemtl.backends.tvm.schedule.fused import Finish, Fused
from edgemtl.backends.tvm.schedule.machine import Machine, Tile, chunks

#: products below which two threads are not worth their start
PARALLEL_FROM = 1_000_000


def packed(matrix: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """(K, N) as panels: K x ``columns`` for each, the last as narrow as what is left."""
    width = matrix.shape[1]
    panels = [matrix[:, at : at + columns] for at in range(0, width, columns)]
    return np.concatenate([np.ascontiguousarray(panel).reshape(-1) for panel in panels])


def panels_of(total: int, width: int) -> list[tuple[int, int, int]]:
    """(first panel, how many, width): the full ones, then the narrow one."""
    full, rest = divmod(total, width)
    found = [(0, full, width)] if full else []
    return [*found, (full, 1, rest)] if rest else found


def registers(rows: int, width: int) -> tuple[Any, Any]:
    """The accumulators of a tile."""
    return nodes.scratch(rows * width, "acc")


def cleared(acc: Any, rows: int, width: int, lanes: int) -> list[Any]:
    """Statements that set them to 0."""
    return [
        nodes.store(acc, (row * width + at,), nodes.spread(nodes.real(0.0), n), n)
        for row in range(rows)
        for at, n in chunks(width, lanes)
    ]


def multiplied(
    acc: Any,
    rows: Sequence[int],
    width: int,
    lanes: int,
    left: Callable[[int], Any],
    right: Callable[[int, int], Any],
) -> list[Any]:
    """One step of the reduction: ``acc[row] += left(row) * right(offset, lanes)``."""
    made = []
    for at, n in chunks(width, lanes):
        for row in rows:
            place = (row * width + at,)
            product = nodes.spread(left(row), n) * right(at, n)
            made.append(nodes.store(acc, place, nodes.load(acc, place, n) + product, n))
    return made


def finished(
    acc: Any, rows: int, width: int, lanes: int, first: Any, column: Any, finish: Finish
) -> list[Any]:
    """Statements that store a tile, rows ``first`` and on."""
    made = []
    for row in range(rows):
        for at, n in chunks(width, lanes):
            value = nodes.load(acc, (row * width + at,), n)
            made += finish(value, first + row, column + at, n)
    return made


def rows_per_chunk(tiles: int, tile_bytes: int, work: int, machine: Machine) -> tuple[int, bool]:
    """How many tiles of rows a chunk has, and whether chunks are worth a thread each.

    Args:
        tiles: of rows in all.
        tile_bytes: that one tile reads.
        work: products in all.
        machine: whose second cache a chunk may half fill.
    """
    share = max(1, machine.l2_bytes // 2 // max(tile_bytes, 1))
    if work < PARALLEL_FROM or machine.cores == 1 or tiles < machine.cores:
        return min(share, tiles), False
    pieces = max(-(-tiles // share), machine.cores)
    pieces = -(-pieces // machine.cores) * machine.cores
    return -(-tiles // pieces), True


def dense(fused: Fused, machine: Machine) -> Any:
    """The function for ``rows x depth`` times packed ``depth x columns``."""
    spec = fused.spec
    rows, columns, depth = spec["rows"], spec["columns"], spec["depth"]
    tile = Tile(*spec["tile"])
    left, declared = nodes.view(fused.inputs[0], (rows, depth), "left")
    right = fused.inputs[1]
    finish = Finish(fused)

    def tile_of(first: Any, height: int, panel: Any, width: int) -> list[Any]:
        acc, alloc = registers(height, width)
        base = panel * (tile.columns * depth)

        def step(k: Any) -> list[Any]:
            return multiplied(
                acc,
                range(height),
                width,
                machine.lanes,
                lambda row: nodes.load(left, (first + row, k)),
                lambda at, n: nodes.load(right, (base + k * width + at,), n),
            )

        return [
            alloc,
            *cleared(acc, height, width, machine.lanes),
            *nodes.loop("k", depth, step),
            *finished(acc, height, width, machine.lanes, first, panel * tile.columns, finish),
        ]

    body = over_rows(rows, columns, depth, tile, machine, tile_of)
    return nodes.function(fused.parameters, [declared, *finish.declared, *body])


def over_rows(
    rows: int,
    columns: int,
    depth: int,
    tile: Tile,
    machine: Machine,
    tile_of: Callable[[Any, int, Any, int], list[Any]],
) -> list[Any]:
    """Loops around a tile: chunks of rows, panels, tiles of rows."""
    full, rest = divmod(rows, tile.rows)
    panels = panels_of(columns, tile.columns)
    work = rows * columns * depth
    if not full:
        wide = work >= PARALLEL_FROM and machine.cores > 1
        return over_panels(
            panels,
            lambda panel, width: tile_of(nodes.integer(0), rest, panel, width),
            nodes.PARALLEL if wide else nodes.SERIAL,
        )
    per, parallel = rows_per_chunk(full, 4 * tile.rows * depth, work, machine)
    pieces = -(-full // per)

    def chunk(piece: Any) -> list[Any]:
        begin = piece * per
        count: Any = per if full % per == 0 else _least(nodes.integer(per), full - begin)

        def tiles(panel: Any, width: int) -> list[Any]:
            return nodes.loop(
                "tile",
                count,
                lambda t: tile_of((begin + t) * tile.rows, tile.rows, panel, width),
            )

        made = over_panels(panels, tiles)
        if rest:
            tail = over_panels(
                panels, lambda panel, width: tile_of(full * tile.rows, rest, panel, width)
            )
            made += nodes.when(piece == pieces - 1, tail) if pieces > 1 else tail
        return made

    return nodes.loop("chunk", pieces, chunk, nodes.PARALLEL if parallel else nodes.SERIAL)


def over_panels(
    panels: Sequence[tuple[int, int, int]],
    body: Callable[[Any, int], list[Any]],
    kind: Any = nodes.SERIAL,
) -> list[Any]:
    """``body(panel, width)`` for all panels."""
    made: list[Any] = []
    for start, many, width in panels:

        def one(panel: Any, width: int = width) -> list[Any]:
            return body(panel, width)

        made += nodes.loop("panel", many, one, kind, start)
    return made


def _least(a: Any, b: Any) -> Any:
    from tvm import tirx

    return tirx.min(a, b)


def batched(fused: Fused, machine: Machine) -> Any:
    """The function for products of two activations, one matrix after another."""
    spec = fused.spec
    batch, rows, columns, depth = spec["batch"], spec["rows"], spec["columns"], spec["depth"]
    tile = Tile(*spec["tile"])
    left, of_left = nodes.view(fused.inputs[0], (batch * rows, depth), "left")
    right, of_right = nodes.view(fused.inputs[1], (batch * depth, columns), "right")
    finish = Finish(fused)
    full, rest = divmod(rows, tile.rows)

    def of_batch(b: Any) -> list[Any]:
        def tile_of(first: Any, height: int, panel: Any, width: int) -> list[Any]:
            acc, alloc = registers(height, width)
            column = panel * tile.columns

            def step(k: Any) -> list[Any]:
                return multiplied(
                    acc,
                    range(height),
                    width,
                    machine.lanes,
                    lambda row: nodes.load(left, (b * rows + first + row, k)),
                    lambda at, n: nodes.load(right, (b * depth + k, column + at), n),
                )

            return [
                alloc,
                *cleared(acc, height, width, machine.lanes),
                *nodes.loop("k", depth, step),
                *finished(acc, height, width, machine.lanes, b * rows + first, column, finish),
            ]

        def panel_of(panel: Any, width: int) -> list[Any]:
            tiles = nodes.loop(
                "tile", full, lambda t: tile_of(t * tile.rows, tile.rows, panel, width)
            )
            last = tile_of(nodes.integer(full * tile.rows), rest, panel, width) if rest else []
            return [*tiles, *last]

        return over_panels(panels_of(columns, tile.columns), panel_of)

    work = batch * rows * columns * depth
    parallel = batch > 1 and machine.cores > 1 and work >= PARALLEL_FROM
    kind = nodes.PARALLEL if parallel else nodes.SERIAL
    body = nodes.loop("batch", batch, of_batch, kind)
    return nodes.function(fused.parameters, [of_left, of_right, *finish.declared, *body])
