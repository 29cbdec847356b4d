"""What a network asks of the accelerator, layer by layer, without the numbers in it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

Kind = Literal["conv", "depthwise", "matmul", "attention", "gate", "experts", "move"]
#: cycles to put a token into the queue of one expert (fitted to the paper's Table 4)
PUSH_CYCLES = 1


@dataclass(frozen=True)
class Array:
    """The multiplier array: ``rows`` output values times ``columns`` input values per cycle."""

    rows: int
    columns: int

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates per cycle with every multiplier busy."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Work:
    """One layer.

    Attributes:
        name: of the layer.
        kind: which loop runs it.
        positions: output pixels or tokens.
        reduction: input values per output value and tap.
        outputs: output channels; elements per position for "move".
        taps: kernel positions; 1 for a matrix product.
        inputs: tensors it reads, each once.
        output: tensor it writes.
        input_bytes: of each of ``inputs``.
        output_bytes: of ``output``.
        weight_bytes: of all its weights; those of all experts.
        heads: of attention, whose ``reduction`` is one head's size and ``outputs`` all heads'.
        experts, top_k: of an expert layer, whose ``reduction`` is the token's size and ``outputs``
            the hidden size of one expert.
    """

    name: str
    kind: Kind
    positions: int
    reduction: int
    outputs: int
    taps: int = 1
    inputs: tuple[str, ...] = ()
    output: str = ""
    input_bytes: tuple[int, ...] = ()
    output_bytes: int = 0
    weight_bytes: int = 0
    heads: int = 1
    experts: int = 0
    top_k: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one picture."""
        if self.kind == "move":
            return 0
        if self.kind == "attention":  # queries by keys, and scores by values
            return 2 * self.positions**2 * self.outputs
        if self.kind == "experts":
            return self.top_k * self.positions * 2 * self.reduction * self.outputs
        if self.kind == "depthwise":
            return self.positions * self.taps * self.outputs
        return self.positions * self.taps * self.reduction * self.outputs

    def cycles(self, array: Array) -> int:
        """Cycles of one picture, one step of the array per cycle, without waiting for weights.

        A layer whose channels are no multiple of the array's sides leaves multipliers idle.
        """
        rows, columns = array.rows, array.columns
        if self.kind == "move":
            return ceil(self.positions * self.outputs / rows)
        if self.kind == "attention":
            # A row per head; the columns take several keys at once.
            keys = max(1, columns // self.reduction)
            slices = ceil(self.reduction / columns)
            return (
                2 * self.positions * ceil(self.positions / keys) * slices * ceil(self.heads / rows)
            )
        if self.kind == "gate":
            work = ceil(self.reduction * self.outputs / array.macs_per_cycle)
            return self.positions * (work + PUSH_CYCLES)
        if self.kind == "experts":
            return self.positions * self.top_k * self.token_cycles(array)
        if self.kind == "depthwise":
            return self.positions * ceil(self.outputs / rows) * ceil(self.taps / columns)
        return (
            self.positions * self.taps * ceil(self.reduction / columns) * ceil(self.outputs / rows)
        )

    def token_cycles(self, array: Array) -> int:
        """Cycles of one token through one expert."""
        d, h = self.reduction, self.outputs
        first = ceil(d / array.columns) * ceil(h / array.rows)
        return first + ceil(h / array.columns) * ceil(d / array.rows)

    def tiles(self, array: Array) -> int:
        """Parts of the weights that are in the array's buffer one after the other."""
        if not self.weight_bytes or self.kind == "experts":
            return 1
        return ceil(self.outputs / array.rows)
