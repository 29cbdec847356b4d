"""Depthwise convolution: vectors of channels, a few pixels of a row at a time."""

from __future__ import annotations

from typing import Any

from edgemtl.backends.tvm.schedule import nodes
from edgemtl.backends.tvm.schedule.conv import (
    Geometry,
    geometry,
    over_columns,
    over_lines,
    row_guard,
    split_row,
)
from edgemtl.backends.tvm.schedule.dense import cleared, registers
from edgemtl.backends.tvm.schedule.fused import Finish, Fused
from edgemtl.backends.tvm.schedule.machine import Machine, chunks

#: multiply-adds of a depthwise step cost as much as several of a matrix product: memory bounds them
_WEIGHT = 4


def pixels(shape: Geometry, machine: Machine) -> int:
    """Outputs of a row that share their inputs in registers."""
    best = 1
    for count in range(1, shape.out_width + 1):
        inputs = (count - 1) * shape.strides[1] + shape.kernel[1]
        if count + inputs + shape.kernel[1] > machine.registers:
            break
        if shape.out_width % count == 0 or count <= 4:
            best = count
    return best


def depthwise(fused: Fused, machine: Machine) -> Any:
    """The function of a convolution within each channel; weights lie as (KH, KW, C)."""
    shape = geometry(fused.spec)
    (kh, kw), channels = shape.kernel, shape.channels
    lines = shape.batch * shape.height
    source, of_source = nodes.view(fused.inputs[0], (lines, shape.width * channels), "source")
    weights, of_weights = nodes.view(fused.inputs[1], (kh * kw, channels), "weights")
    finish = Finish(fused)
    size = pixels(shape, machine)

    def tile_of(image: Any, y: Any, x: Any, count: int, channel: Any, lanes: int) -> list[Any]:
        acc, alloc = registers(count, lanes)
        made = [alloc, *cleared(acc, count, lanes, lanes)]
        for i in range(kh):

            def at_row(row: Any, i: int = i) -> list[Any]:
                steps = []
                for j in range(kw):
                    for m in range(count):
                        if isinstance(x, int) and not shape.reads(x + m, j):
                            continue
                        place = shape.column(x + m, j) * channels + channel
                        value = nodes.load(source, (image * shape.height + row, place), lanes)
                        value = value * nodes.load(weights, (i * kw + j, channel), lanes)
                        slot = (m * lanes,)
                        value = nodes.load(acc, slot, lanes) + value
                        steps.append(nodes.store(acc, slot, value, lanes))
                return steps or [nodes.nothing()]

            made += row_guard(shape, y, i, at_row)
        first = (image * shape.out_height + y) * shape.out_width + x
        for m in range(count):
            made += finish(nodes.load(acc, (m * lanes,), lanes), first + m, channel, lanes)
        return made

    def row_of(line: Any, panel: Any, width: int) -> list[Any]:
        image, y = split_row(line, shape)

        def tiles(x: Any, count: int) -> list[Any]:
            full = channels // machine.lanes
            made = nodes.loop(
                "vector",
                full,
                lambda v: tile_of(image, y, x, count, v * machine.lanes, machine.lanes),
            )
            for at, lanes in chunks(channels, machine.lanes):
                if lanes < machine.lanes:
                    made += tile_of(image, y, x, count, nodes.integer(at), lanes)
            return made

        return over_columns(shape.out_width, size, shape.inside, tiles)

    lines = shape.batch * shape.out_height
    work = _WEIGHT * lines * shape.out_width * channels * kh * kw
    line_bytes = 4 * shape.width * channels * shape.strides[0]
    body = over_lines(lines, line_bytes, work, machine, [(0, 1, channels)], row_of)
    return nodes.function(fused.parameters, [of_source, of_weights, *finish.declared, *body])
