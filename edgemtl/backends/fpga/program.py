"""The integer part of a network: tensors, and steps in the order they run.

Tensors are (height, width, channels); a matrix of tokens has height 1. Everything is static.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.work import Kind, Work

Op = Literal["conv", "depthwise", "add", "upsample", "maxpool", "average"]
#: what each operator counts as in the model of the device
_KINDS: dict[str, Kind] = {"conv": "conv", "depthwise": "depthwise"}


@dataclass(frozen=True)
class Tensor:
    """A tensor in the accelerator's memory.

    Attributes:
        name: unique.
        height, width, channels: extents.
        bits: 8, 16 or 32 per value.
        scale: real value of one step; one for all, or one per channel where ``bits`` is 32.
        rank: of the tensor in the graph; 4 is (1, channels, height, width), less is
            (..., channels).
    """

    name: str
    height: int
    width: int
    channels: int
    bits: int
    scale: NDArray[np.float32]
    rank: int = 4

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def size_bytes(self) -> int:
        """In memory."""
        return self.height * self.width * self.channels * self.bits // 8


@dataclass(frozen=True)
class Window:
    """Which pixels a result reads: kernel, step, border, spacing; each (vertical, horizontal)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        """Pixels per result."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    Attributes:
        op: which; "add" with one input only converts.
        name: of the graph's node.
        inputs: tensors.
        output: tensor it writes.
        first: of the output's channels; others are written by other steps (a concatenation).
        channels: how many it writes.
        window: of conv, depthwise, maxpool and average.
        factor: of upsample, (vertical, horizontal).
        weight: conv (channels, kernel, kernel, inputs), depthwise (channels, kernel, kernel), int8.
        bias: per channel, int32; as large as the sums it is added to.
        multiplier, shift: per channel; for "add" one multiplier per input and one shift. Empty for
            sums that are kept as they are.
        low, high: limits of the result, or of the table's index.
        table: result for each index from ``low`` to ``high``.
        stage: steps of one stage run without the processor in between.
    """

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str
    channels: int
    first: int = 0
    window: Window = Window()
    factor: tuple[int, int] = (1, 1)
    weight: NDArray[np.int8] | None = None
    bias: NDArray[np.int32] | None = None
    multiplier: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    shift: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    low: int = -127
    high: int = 127
    table: NDArray[np.int16] | None = None
    stage: int = 1

    @property
    def weight_bytes(self) -> int:
        """Of its weights, biases and multipliers as the device loads them."""
        return 0 if self.weight is None else self.weight.size + 8 * self.channels


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in the order they run.

    Attributes:
        tensors: by name.
        steps: in order, stages rising.
        inputs: tensors that the processor writes.
        outputs: tensors that the processor reads.
    """

    tensors: dict[str, Tensor]
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def works(self) -> list[Work]:
        """What it asks of the device, for the model."""
        return [self._work(step) for step in self.steps]

    def _work(self, step: Step) -> Work:
        source, result = self.tensors[step.inputs[0]], self.tensors[step.output]
        sizes = tuple(self.tensors[name].size_bytes for name in step.inputs)
        positions = result.height * result.width
        kind: Kind = _KINDS.get(step.op, "move")
        return Work(
            step.name,
            kind,
            positions,
            source.channels if kind == "conv" else 1,
            step.channels,
            step.window.taps if step.weight is not None else 1,
            step.inputs,
            step.output,
            sizes,
            positions * step.channels * result.bits // 8,
            step.weight_bytes,
        )

    def facts(self) -> dict[str, Any]:
        """Plain data about it."""
        kinds = [step.op for step in self.steps]
        return {
            "steps": {op: kinds.count(op) for op in sorted(set(kinds))},
            "stages": len({step.stage for step in self.steps}),
            "weight_bytes": sum(step.weight_bytes for step in self.steps),
            "macs": sum(work.macs for work in self.works()),
        }
