"""How a weight that reads channels is laid out: blocks of outputs by features.

A convolution, a linear layer or a stack of experts multiplies rows of features with a matrix. A
feature is a channel at one place of the kernel; a grouped convolution or a stack of experts has
several matrices, its blocks, that lose the same channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["rows", "convolution", "transposed"]


@dataclass(frozen=True)
class Layout:
    """Where the features of a weight lie.

    Attributes:
        tensor: name of the weight.
        kind: ``convolution`` (O, C / groups, ...), ``transposed`` convolution (C, O, ...), or
            ``rows`` of a matrix product.
        dim: the dimension of its channels.
        shape: of the weight.
        blocks: matrices in it.
        stack: dimension of the blocks of a stack of matrices; None where there is none.
    """

    tensor: str
    kind: Kind
    dim: int
    shape: tuple[int, ...]
    blocks: int = 1
    stack: int | None = None

    @property
    def taps(self) -> int:
        """Features of one channel: places of the kernel."""
        return prod(self.shape[2:]) if self.kind != "rows" else 1

    @property
    def channels(self) -> int:
        """Channels that each block reads."""
        return self.shape[self.dim]

    @property
    def features(self) -> int:
        """Features that each block reads."""
        return self.channels * self.taps

    @property
    def outputs(self) -> int:
        """Outputs of each block."""
        return prod(self.shape) // (self.blocks * self.features)

    def matrix(self, weight: Tensor) -> Tensor:
        """(blocks, outputs, features) of a weight; features are channel by channel."""
        if self.kind == "convolution":
            return weight.reshape(self.blocks, self.outputs, self.features)
        if self.kind == "transposed":
            return weight.transpose(0, 1).reshape(1, self.outputs, self.features)
        return weight.permute(self._order).reshape(self.blocks, self.outputs, self.features)

    def weight(self, matrix: Tensor) -> Tensor:
        """The weight of a matrix; undoes :meth:`matrix`."""
        if self.kind == "convolution":
            return matrix.reshape(self.shape)
        if self.kind == "transposed":
            return matrix.reshape(self.shape[1], self.shape[0], *self.shape[2:]).transpose(0, 1)
        order = self._order
        back = [order.index(dim) for dim in range(len(order))]
        return matrix.reshape([self.shape[dim] for dim in order]).permute(back)

    def of(self, positions: Sequence[int]) -> Tensor:
        """Features of some channels, those of a channel together."""
        first = torch.tensor(positions, dtype=torch.int64) * self.taps
        return (first[:, None] + torch.arange(self.taps)).reshape(-1)

    @property
    def _order(self) -> list[int]:
        """Dimensions of a matrix product's weight as blocks, outputs, features."""
        stack = [] if self.stack is None else [self.stack]
        rest = [dim for dim in range(len(self.shape)) if dim not in (*stack, self.dim)]
        return [*stack, *rest, self.dim]


def convolution(
    tensor: str, shape: Sequence[int], dim: int, groups: int, transposed: bool
) -> Layout | None:
    """Layout of a convolution's weight; None for a form that is not known."""
    if transposed:
        return Layout(tensor, "transposed", 0, tuple(shape)) if dim == 0 and groups == 1 else None
    return Layout(tensor, "convolution", 1, tuple(shape), groups) if dim == 1 else None


def product(
    tensor: str, parameter: Tensor, dim: int, operand: Tensor, axis: int
) -> tuple[Layout, int | None] | None:
    """Layout of a weight that is an operand of a matrix product, and which of its blocks that is.

    Args:
        tensor: its name.
        parameter: the weight.
        dim: the dimension of its channels.
        operand: a view of the weight: the second operand of the product.
        axis: of the operand, along which the product sums.

    Returns:
        None when the view is of a form that is not known; the block is None for all blocks at once.
    """
    if parameter.dim() not in (2, 3) or operand.dim() not in (2, 3):
        return None
    if operand.stride(axis) != parameter.stride(dim) or operand.shape[axis] != parameter.shape[dim]:
        return None
    others = [d for d in range(parameter.dim()) if d != dim]
    sides = [a for a in range(operand.dim()) if a != axis]
    start = operand.storage_offset() - parameter.storage_offset()

    def alike(side: int, other: int) -> bool:
        same = operand.shape[side] == parameter.shape[other]
        return same and operand.stride(side) == parameter.stride(other)

    shape = tuple(parameter.shape)
    if parameter.dim() == 2:
        fits = start == 0 and alike(sides[-1], others[0])
        fits = fits and (operand.dim() == 2 or operand.shape[0] == 1)
        return (Layout(tensor, "rows", dim, shape), 0) if fits else None
    for stack, out in (others, others[::-1]):
        layout = Layout(tensor, "rows", dim, shape, shape[stack], stack)
        if operand.dim() == 3 and operand.shape[0] > 1:
            if start == 0 and alike(sides[0], stack) and alike(sides[1], out):
                return layout, None
        elif alike(sides[-1], out) and start % parameter.stride(stack) == 0:
            block = start // parameter.stride(stack)
            if 0 <= block < shape[stack]:
                return layout, block
    return None
