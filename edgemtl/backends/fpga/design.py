"""A design on a board: its array, its buffers, and whether they fit.

What logic (LUTs, flip-flops), routing and the clock make of it only a synthesis tool can tell, and
none is here; multipliers and memory blocks can be counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from edgemtl.backends.fpga.device import FpgaOptions, WeightBuffer
from edgemtl.backends.fpga.work import Array, Work

#: data bits and words of a memory block used as one read and one write port
BRAM_BITS, BRAM_WORDS = 72, 512
URAM_BITS, URAM_WORDS = 72, 4096
#: multipliers of the step that rounds a sum (32 x 17 bits), one step per row of the array
ROUNDING_DSP = 2
#: lines of pixels that a 3 x 3 depthwise window needs
WINDOW_LINES = 3


@dataclass(frozen=True)
class Design:
    """An array with its buffers.

    Attributes:
        array: of multipliers.
        weight_buffer: one buffer, two in turn, or all weights on the chip.
        weight_bytes: of one half (of all weights where they are resident).
        activation_bytes: for activations; None for a design that hands them on from layer to layer
            by means of its own.
        line_pixels: longest line of a depthwise layer's input; 0 without any.
        value_bytes: of a weight.
    """

    array: Array
    weight_buffer: WeightBuffer
    weight_bytes: int
    activation_bytes: int | None
    line_pixels: int = 0
    value_bytes: int = 1


@dataclass(frozen=True)
class Memory:
    """A memory of the design: words of ``bits``, and the blocks they take of either kind."""

    name: str
    bits: int
    words: int

    @property
    def size_bytes(self) -> int:
        """Held, without what the blocks' widths and depths waste."""
        return self.bits * self.words // 8

    @property
    def bram36(self) -> int:
        """Blocks of 36 Kbit."""
        return ceil(self.bits / BRAM_BITS) * ceil(self.words / BRAM_WORDS)

    @property
    def uram(self) -> int:
        """Blocks of 288 Kbit."""
        return ceil(self.bits / URAM_BITS) * ceil(self.words / URAM_WORDS)


@dataclass(frozen=True)
class Resources:
    """What a design takes of a board, modelled.

    Attributes:
        dsp, bram36, uram: taken.
        memory_bytes: held in block memories; nothing is put into LUTs.
        refused: why it does not fit, naming the resource; empty when it does.
    """

    dsp: int
    bram36: int
    uram: int
    memory_bytes: int
    refused: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the board has all of it."""
        return not self.refused


def memories(design: Design) -> list[Memory]:
    """The memories of a design, the widest first."""
    array, size = design.array, design.value_bytes
    lanes = array.macs_per_cycle * size
    halves = 2 if design.weight_buffer == "ping-pong" else 1
    found = [Memory("weight buffer", 8 * lanes, halves * ceil(design.weight_bytes / lanes))]
    if design.activation_bytes is not None:
        wide = max(array.rows, array.columns) * size
        found.append(Memory("activation buffer", 8 * wide, ceil(design.activation_bytes / wide)))
    if design.line_pixels:
        bits = 8 * size * array.rows * WINDOW_LINES
        found.append(Memory("line buffer", bits, design.line_pixels))
    return found


def resources(design: Design, board: FpgaOptions) -> Resources:
    """Count multipliers and memory blocks; each memory goes where it takes the smaller share."""
    refused = []
    dsp = ceil(design.array.macs_per_cycle / board.macs_per_dsp)
    dsp += ROUNDING_DSP * design.array.rows
    if dsp > board.dsp:
        refused.append(
            f"DSP: an array of {design.array.rows} x {design.array.columns} needs {dsp}, the "
            f"board has {board.dsp}"
        )
    bram = uram = total = 0
    for memory in memories(design):
        total += memory.size_bytes
        in_bram = bram + memory.bram36 <= board.bram36
        in_uram = uram + memory.uram <= board.uram
        bram_share = memory.bram36 / board.bram36
        uram_share = memory.uram / board.uram if board.uram else float("inf")
        if in_bram and (bram_share <= uram_share or not in_uram):
            bram += memory.bram36
        elif in_uram:
            uram += memory.uram
        else:
            left = f"{board.bram36 - bram} of {board.bram36} BRAM"
            need = f"{memory.bram36} BRAM (36 Kbit)"
            if board.uram:
                left += f" and {board.uram - uram} of {board.uram} URAM"
                need += f" or {memory.uram} URAM (288 Kbit)"
            refused.append(
                f"{'BRAM and URAM' if board.uram else 'BRAM'}: the {memory.name} needs {need}, "
                f"left are {left}"
            )
    return Resources(dsp, bram, uram, total, tuple(refused))


def weight_half(works: Sequence[Work], array: Array, value_bytes: int = 1) -> int:
    """Bytes that one half of the weight buffer must hold: the largest part loaded at once.

    A word of the buffer feeds the whole array; where channels do not fill it, the word is filled
    up with zeros. An expert is loaded as a whole.
    """
    words = [_words(work, array, value_bytes) for work in works]
    return max(words, default=0) * array.macs_per_cycle * value_bytes


def _words(work: Work, array: Array, value_bytes: int) -> int:
    """Of the part of a layer's weights that is loaded at once."""
    if not work.weight_bytes:
        return 0
    if work.kind == "experts":
        return ceil(work.weight_bytes / work.experts / (array.macs_per_cycle * value_bytes))
    if work.kind == "depthwise":
        return ceil(work.taps / array.columns)
    return work.taps * ceil(work.reduction / array.columns)


def design_for(
    works: Sequence[Work],
    board: FpgaOptions,
    array: Array,
    weight_buffer: WeightBuffer,
    activation_bytes: int,
) -> Design:
    """A design whose weight buffer is as large as the network needs, or as the target says."""
    lines = [int(work.positions**0.5) for work in works if work.kind == "depthwise"]
    if weight_buffer == "resident":
        lanes = array.macs_per_cycle
        held = lanes * sum(_words(work, array, 1) * work.tiles(array) for work in works)
    else:
        held = board.weight_buffer_kib * 1024 or weight_half(works, array)
    return Design(array, weight_buffer, held, activation_bytes, max(lines, default=0) * 2)
