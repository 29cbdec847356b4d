"""Split a quantised graph: the accelerator's integer program, and what the processor runs.

The two take turns. Even stages are the processor's, as small ONNX graphs in float32 (rounding the
picture, reshaping, decoding, whatever the accelerator does not take); odd ones are the
accelerator's. A network whose int8 part hangs together has stages 0, 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgemtl.backends.fpga.arith import (
    FINER,
    INT8,
    INT16,
    ROOMIER,
    TABLE_SIZE,
    common_multipliers,
    multiplier_of,
    multipliers_of,
)
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.patterns import (
    Expression,
    Joined,
    Leaf,
    Limit,
    Mean,
    Plus,
    Pool,
    Sum,
    Table,
    Up,
    bounds,
    expression,
    positions,
    sum_of,
)
from edgemtl.backends.fpga.program import Program, Step, Tensor
from edgemtl.backends.fpga.turns import HostStage, host_stages, in_turns, stage_levels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: points at which a function is looked at to find where it stops changing
_PROBES = 1 << 16


@dataclass(frozen=True)
class Partition:
    """A split network.

    Attributes:
        program: of the accelerator.
        hosts: turns of the processor, in order.
        read: graph tensor in float32 -> tensor of the accelerator it is read from.
        nodes: graph nodes by side, "accelerator" or "host" (weights and roundings not counted).
        outputs: of the network, in order.
    """

    program: Program
    hosts: tuple[HostStage, ...]
    read: dict[str, str]
    nodes: dict[str, dict[str, int]]
    outputs: tuple[str, ...]


def partition(model: ModelProto) -> Partition:
    """Split a graph; one without int8 is the processor's altogether."""
    return _Partitioner(Graph(model)).run()


class _Partitioner:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tensors: dict[str, Tensor] = {}
        self._steps: list[Step] = []
        # int8 tensor of the graph -> its expression, where the accelerator writes it
        self._taken: dict[str, Expression] = {}
        self._host: set[str] = set()  # names of host nodes' first outputs
        self._read: dict[str, str] = {}  # float tensor -> accelerator's tensor
        self._written: dict[str, None] = {}  # int8 tensors the host writes for the accelerator

    def run(self) -> Partition:
        for node in self._graph.nodes:
            if node.op_type == "QuantizeLinear" and self._plain_rounding(node):
                found = expression(self._graph, node.input[0])
                if found is not None:
                    self._taken[node.output[0]] = found
        sums = self._assign()
        for node in self._graph.nodes:
            if node.output[0] in self._needed:
                self._emit_rounded(node)
            elif node.output[0] in sums:
                self._emit_sums(sums[node.output[0]])
        levels = stage_levels(self._graph, self._steps, self._host, self._read)
        self._steps = [replace(step, stage=levels[step.output]) for step in self._steps]
        self._steps = in_turns(self._steps, self._tensors)
        program = Program(
            self._tensors, tuple(self._steps), tuple(self._written), tuple(self._read.values())
        )
        return Partition(
            program,
            host_stages(self._graph, self._host, self._written, levels),
            self._read,
            self._count(),
            self._graph.outputs,
        )

    def _plain_rounding(self, node: NodeProto) -> bool:
        scale, zero = self._graph.constant(node, 1), self._graph.constant(node, 2)
        plain = scale is not None and not scale.ndim and zero is not None
        return bool(plain and zero is not None and zero.dtype == np.int8 and not zero.any())

    def _assign(self) -> dict[str, Sum]:
        """Decide which nodes are the processor's, from the outputs backwards.

        Returns:
            tensors that the processor reads as sums.
        """
        graph = self._graph
        sums: dict[str, Sum] = {}
        self._needed: set[str] = set()
        floats, integers = list(graph.outputs), list[str]()
        seen: set[str] = set()
        while floats or integers:
            if integers:
                tensor = integers.pop()
                if tensor in self._needed or tensor in self._written:
                    continue
                if tensor in self._taken:
                    self._needed.add(tensor)
                    integers += [leaf.tensor for leaf in _leaves(self._taken[tensor])]
                else:
                    self._written[tensor] = None
                    floats.append(tensor)
                continue
            tensor = floats.pop()
            node = graph.writer.get(tensor)
            if tensor in seen or node is None:
                continue
            seen.add(tensor)
            rounded = graph.rounded(tensor)
            if rounded is not None and rounded[0] in self._taken:
                self._read[tensor] = rounded[0]
                integers.append(rounded[0])
                continue
            found = sum_of(graph, tensor)
            if found is not None:
                sums[tensor] = found
                self._read[tensor] = f"{tensor}.sums"
                integers.append(found.source.tensor)
                continue
            self._host.add(node.output[0])
            floats += [name for name in node.input if name]
        return sums

    # What the accelerator does, step by step.

    def _emit_rounded(self, node: NodeProto) -> None:
        graph, name = self._graph, node.output[0]
        scale = np.float32(graph.constants[node.input[1]])
        shape = graph.shapes[node.input[0]]
        self._tensor(name, positions(shape), 8, scale, len(shape))
        self._emit(self._taken[name], _Goal(name, 0, scale, *INT8))

    def _emit_sums(self, found: Sum) -> None:
        shape = self._graph.shapes[found.result]
        scale = found.source.scale * found.weight.scale
        name = f"{found.result}.sums"
        self._tensor(name, positions(shape), 32, scale, len(shape))
        self._steps.append(self._sum_step(found, name, 0))

    def _tensor(
        self,
        name: str,
        size: tuple[int, int, int],
        bits: int,
        scale: np.generic | np.ndarray[tuple[int, ...], np.dtype[np.float32]],
        rank: int = 4,
    ) -> str:
        self._tensors[name] = Tensor(name, *size, bits, np.asarray(scale, np.float32), rank)
        return name

    def _source(self, leaf: Leaf) -> str:
        """The accelerator's tensor of a leaf; made here where the processor writes it."""
        if leaf.tensor not in self._tensors:
            shape = self._graph.shapes[leaf.tensor]
            self._tensor(leaf.tensor, positions(shape), 8, leaf.scale, len(shape))
        return leaf.tensor

    def _size(self, found: Expression) -> tuple[int, int, int]:
        """(height, width, channels) of an expression."""
        match found:
            case Leaf(tensor):
                return positions(self._graph.shapes[tensor])
            case Sum():
                return positions(self._graph.shapes[found.result])
            case Limit(inside) | Table(inside):
                return self._size(inside)
            case Joined(parts, channels):
                height, width, _ = self._size(parts[0])
                return height, width, sum(channels)
            case Up(inside, (down, across)):
                height, width, count = self._size(inside)
                return height * down, width * across, count
            case Plus(first):
                return self._size(first)
            case Pool() | Mean():
                node = next(n for n in self._graph.nodes if n.name == found.node)
                return positions(self._graph.shapes[node.output[0]])

    def _emit(self, found: Expression, goal: _Goal) -> None:
        """Steps that write an expression, rounded, into a tensor's channels."""
        channels = self._size(found)[2]
        match found:
            case Limit(inside, low, high):
                self._emit(inside, goal.limited(low, high))
            case Joined(parts, counts):
                first = goal.first
                for part, count in zip(parts, counts, strict=True):
                    self._emit(part, replace(goal, first=first))
                    first += count
            case Sum():
                step = self._sum_step(found, goal.tensor, goal.first)
                ratio = _sum_scale(found) / float(goal.scale)
                self._steps.append(_rounded(step, ratio, goal))
            case Table(inside):
                self._steps.append(self._table_step(inside, found, goal))
            case Up(inside, factor):
                small = self._temporary(inside, goal, found.node)
                step = Step("upsample", found.node, (small,), goal.tensor, channels, goal.first)
                self._steps.append(replace(step, factor=factor))
            case Pool(inside, window):
                full = self._temporary(inside, goal, found.node)
                step = Step("maxpool", found.node, (full,), goal.tensor, channels, goal.first)
                self._steps.append(replace(step, window=window))
            case Mean(inside, window):
                name, scale = self._operand(inside, goal, ROOMIER)
                step = Step("average", found.node, (name,), goal.tensor, channels, goal.first)
                ratio = np.full(channels, scale / window.taps / float(goal.scale))
                self._steps.append(_rounded(replace(step, window=window), ratio, goal))
            case Leaf() | Plus():
                self._emit_add(found, channels, goal)

    def _emit_add(self, found: Leaf | Plus, channels: int, goal: _Goal) -> None:
        """A sum of two tensors, or one tensor in another scale."""
        if isinstance(found, Leaf):
            operands, name = [self._operand(found, goal)], f"{goal.tensor}.convert"
        else:
            operands = [self._operand(part, goal) for part in (found.first, found.second)]
            name = found.node
        ratios = [scale / float(goal.scale) for _, scale in operands]
        if len(ratios) == 1:
            multiplier, shift = multiplier_of(ratios[0])
            multipliers = [multiplier]
        else:
            *multipliers, shift = common_multipliers(ratios[0], ratios[1])
        self._steps.append(
            Step(
                "add",
                name,
                tuple(tensor for tensor, _ in operands),
                goal.tensor,
                channels,
                goal.first,
                multiplier=np.array(multipliers, np.int32),
                shift=np.array([shift], np.int32),
                low=goal.low,
                high=goal.high,
            )
        )

    def _operand(self, found: Expression, goal: _Goal, finer: int = FINER) -> tuple[str, float]:
        """(tensor, scale) of what is added up: as it is, or in finer steps than the result."""
        if isinstance(found, Leaf):
            return self._source(found), float(found.scale)
        if isinstance(found, Up) and isinstance(found.inside, Leaf):
            name = self._tensor(
                f"{goal.tensor}.{found.node}", self._size(found), 8, found.inside.scale
            )
            self._steps.append(
                Step(
                    "upsample",
                    found.node,
                    (self._source(found.inside),),
                    name,
                    self._size(found)[2],
                    factor=found.factor,
                )
            )
            return name, float(found.inside.scale)
        scale = np.float32(goal.scale / finer)
        name = self._tensor(f"{goal.tensor}.{len(self._tensors)}", self._size(found), 16, scale)
        self._emit(found, _Goal(name, 0, scale, *INT16))
        return name, float(scale)

    def _temporary(self, found: Expression, goal: _Goal, node: str) -> str:
        """An expression in the goal's scale and limits, whole, in a tensor of its own."""
        bits = self._tensors[goal.tensor].bits
        name = f"{goal.tensor}.{node}.{len(self._tensors)}"
        self._tensor(name, self._size(found), bits, goal.scale)
        self._emit(found, replace(goal, tensor=name, first=0))
        return name

    def _sum_step(self, found: Sum, output: str, first: int) -> Step:
        source = self._source(found.source)
        limit = 2**31 - 1
        bias = np.clip(np.rint(found.bias / _sum_scale(found)), -limit, limit)
        return Step(
            "depthwise" if found.kind == "depthwise" else "conv",
            found.node,
            (source,),
            output,
            len(bias),
            first,
            found.window,
            weight=found.weight.values,
            bias=bias.astype(np.int32),
        )

    def _table_step(self, inside: Sum, found: Table, goal: _Goal) -> Step:
        """A sum of products through a table over all it can be, as finely as entries allow."""
        lowest, highest = bounds(inside)
        x = np.linspace(lowest.min(), highest.max(), _PROBES)
        y = np.clip(np.rint(found.function(x) / float(goal.scale)), goal.low, goal.high)
        changes = np.flatnonzero(np.diff(y))
        ends = (x[changes[0]], x[changes[-1] + 1]) if changes.size else (0.0, 1.0)
        step = (ends[1] - ends[0]) / (TABLE_SIZE - 3)
        low = int(np.floor(ends[0] / step)) - 1
        index = np.arange(low, low + TABLE_SIZE)
        values = np.rint(found.function(index * step) / float(goal.scale))
        table = np.clip(values, goal.low, goal.high).astype(np.int16)
        placed = replace(goal, low=low, high=low + TABLE_SIZE - 1)
        made = self._sum_step(inside, goal.tensor, goal.first)
        return replace(_rounded(made, _sum_scale(inside) / step, placed), table=table)

    def _count(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {"accelerator": {}, "host": {}}
        for node in self._graph.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
                continue
            side = found["host" if node.output[0] in self._host else "accelerator"]
            side[node.op_type] = side.get(node.op_type, 0) + 1
        return found


@dataclass(frozen=True)
class _Goal:
    """Where rounded numbers go: channels of a tensor from ``first``, its scale and limits."""

    tensor: str
    first: int
    scale: np.float32
    low: int
    high: int

    def limited(self, low: float, high: float) -> _Goal:
        """With a ReLU or Clip in front."""

        def steps(value: float) -> float:
            return float(np.rint(value / float(self.scale))) if np.isfinite(value) else value

        return replace(
            self,
            low=int(max(self.low, min(steps(low), self.high))),
            high=int(min(self.high, max(steps(high), self.low))),
        )


def _sum_scale(found: Sum) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Real value of one step of each channel's sums."""
    return found.source.scale.astype(np.float64) * found.weight.scale.astype(np.float64)


def _rounded(
    step: Step, ratio: np.ndarray[tuple[int, ...], np.dtype[np.float64]], goal: _Goal
) -> Step:
    multiplier, shift = multipliers_of(ratio)
    return replace(step, multiplier=multiplier, shift=shift, low=goal.low, high=goal.high)


def _leaves(found: Expression) -> list[Leaf]:
    match found:
        case Leaf():
            return [found]
        case Sum(source=source):
            return [source]
        case Joined(parts):
            return [leaf for part in parts for leaf in _leaves(part)]
        case Plus(first, second):
            return [*_leaves(first), *_leaves(second)]
        case Limit(inside) | Up(inside) | Pool(inside) | Mean(inside) | Table(inside):
            return _leaves(inside)
