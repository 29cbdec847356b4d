"""The processor that loops are shaped for, and the tile of accumulators that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

#: multiply-adds and loads of a vector that start in one cycle, and cycles until a multiply-add is
#: done; the same for the processors of the target files as far as a choice of tiles goes
_STARTS, _LOADS, _LATENCY = 2.0, 2.0, 5.0
#: cycles for entering and leaving a tile, per accumulator
_STORE = 3.0


@dataclass(frozen=True)
class Machine:
    """A processor.

    Attributes:
        lanes: float32 values in a vector register.
        registers: vector registers.
        cores: that share the work.
        l2_bytes: second data cache of one core.
    """

    lanes: int
    registers: int
    cores: int
    l2_bytes: int = 512 << 10


@dataclass(frozen=True)
class Tile:
    """What one pass over the reduction computes in registers.

    Attributes:
        rows: pixels, or rows of the left matrix.
        columns: output channels, or columns of the right matrix.
    """

    rows: int
    columns: int


def chunks(width: int, lanes: int) -> list[tuple[int, int]]:
    """``width`` columns as vectors: (offset, lanes), full ones first, then halves of halves."""
    found, offset = [], 0
    while offset < width:
        size = lanes
        while size > width - offset:
            size //= 2
        found.append((offset, size))
        offset += size
    return found


def _cycles(rows: int, vectors: int, depth: int) -> float:
    step = max(rows * vectors / _STARTS, (rows + vectors) / _LOADS, _LATENCY)
    return step * depth + _STORE * rows * vectors


def fits(rows: int, vectors: int, machine: Machine) -> bool:
    """Whether accumulators, one row of weights and a broadcast value stay in registers."""
    return rows * vectors + vectors + 2 < machine.registers


def cost(tile: Tile, rows: int, columns: int, depth: int, machine: Machine) -> float:
    """Modelled cycles of ``rows x columns`` outputs, each a sum of ``depth`` products."""
    total = 0.0
    for width, panels in ((tile.columns, columns // tile.columns), (columns % tile.columns, 1)):
        vectors = len(chunks(width, machine.lanes))
        if vectors:
            full, rest = divmod(rows, tile.rows)
            total += panels * full * _cycles(tile.rows, vectors, depth)
            total += panels * (_cycles(rest, vectors, depth) if rest else 0.0)
    return total


def candidates(rows: int, columns: int, machine: Machine) -> list[Tile]:
    """Tiles that stay in registers."""
    widest = -(-columns // machine.lanes)
    found = []
    for vectors in range(1, min(widest, 8) + 1):
        for height in range(1, min(rows, 14) + 1):
            if fits(height, vectors, machine):
                found.append(Tile(height, vectors * machine.lanes))
    return found


@lru_cache(maxsize=4096)
def best(rows: int, columns: int, depth: int, machine: Machine) -> Tile:
    """The tile of least modelled cost; ``rows`` is what tiles cut (a row of pixels, say)."""
    return min(
        candidates(rows, columns, machine),
        key=lambda tile: (cost(tile, rows, columns, depth, machine), -tile.columns, -tile.rows),
    )
