"""Where tensors lie: on the chip while they are needed, or in the external memory.

Done once, before anything runs: a tensor gets a fixed place for its whole life. In the order in
which they are written, each takes the first gap on the chip that is free for as long as it lives;
one that finds none lies outside.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgemtl.backends.fpga.work import Work

#: tensors begin at multiples of this many bytes
ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """A tensor's size, and the first and last layer that uses it."""

    name: str
    size_bytes: int
    begin: int
    end: int


def lives(works: Sequence[Work]) -> dict[str, Life]:
    """Of tensors that a layer writes and a layer reads; all others are outside in any case."""
    last = {name: index for index, work in enumerate(works) for name in work.inputs}
    sizes: dict[str, int] = {}
    first: dict[str, int] = {}
    for index, work in enumerate(works):
        # Several layers may write their channels of one tensor.
        sizes[work.output] = sizes.get(work.output, 0) + work.output_bytes
        first.setdefault(work.output, index)
    return {
        name: Life(name, sizes[name], first[name], last[name]) for name in first if name in last
    }


def on_chip(
    works: Sequence[Work], capacity: int | None, outside: Collection[str] = ()
) -> dict[str, int]:
    """Tensor -> offset in bytes, of those that lie on the chip.

    Args:
        works: layers in order.
        capacity: bytes of the activation buffer; None for as much as is needed.
        outside: tensors that the processor reads or writes.
    """
    found: dict[str, int] = {}
    placed: list[tuple[Life, int]] = []
    for life in lives(works).values():
        if life.name in outside:
            continue
        size = aligned(life.size_bytes)
        busy = sorted(
            (offset, offset + aligned(other.size_bytes))
            for other, offset in placed
            if other.begin <= life.end and life.begin <= other.end
        )
        offset = 0
        for start, end in busy:
            if start - offset >= size:
                break
            offset = max(offset, end)
        if capacity is None or offset + size <= capacity:
            found[life.name] = offset
            placed.append((life, offset))
    return found


def aligned(size: int) -> int:
    """The next multiple of :data:`ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def outside_bytes(
    works: Sequence[Work], capacity: int | None, outside: Collection[str] = ()
) -> list[float]:
    """Per layer, activation bytes that go to or come from the external memory."""
    inside = on_chip(works, capacity, outside)
    moved = []
    for work in works:
        total = 0.0
        for name, size in zip(work.inputs, work.input_bytes, strict=True):
            total += 0 if name in inside else size
        moved.append(total + (0 if work.output in inside else work.output_bytes))
    return moved
