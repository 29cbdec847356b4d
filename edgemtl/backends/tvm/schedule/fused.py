"""A function that TVM fused, taken apart: one operator of ours, and what is done to its result.

What follows is elementwise. It is written into the operator's own loops, on vectors: every block
of it becomes a small array in registers, and only the last one is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from edgemtl.backends.tvm.schedule import nodes
from edgemtl.backends.tvm.schedule.nodes import NotTaken

#: annotation of our operators' blocks
MARK = "edgemtl"
_BINARY = (
    "Add Sub Mul Div Min Max FloorDiv FloorMod EQ NE LT LE GT GE And Or LShift RShift".split()  # noqa: SIM905
)
_PAIRS = {getattr(tirx, name): getattr(tirx, name) for name in _BINARY}


@dataclass(frozen=True)
class Step:
    """A block behind the operator.

    Attributes:
        variables: its index in every dimension of the result.
        value: of one element.
        result: the buffer it writes.
    """

    variables: tuple[Any, ...]
    value: Any
    result: Any


@dataclass(frozen=True)
class Fused:
    """Parts of a fused function.

    Attributes:
        spec: what the operator's annotation says.
        parameters: of the function, as TVM calls it.
        inputs: the operator's own, in the order in which they are read.
        made: the operator's result.
        steps: what follows.
        shape: of the result.
    """

    spec: dict[str, Any]
    parameters: tuple[Any, ...]
    inputs: tuple[Any, ...]
    made: Any
    steps: tuple[Step, ...]
    shape: tuple[int, ...]

    @property
    def output(self) -> Any:
        """The buffer that the function writes."""
        return self.steps[-1].result if self.steps else self.made


def blocks_of(function: Any) -> list[Any]:
    """The blocks of a function, in order; none when it is not a plain sequence of loop nests."""
    realize = function.body
    if not hasattr(realize, "block"):
        return []
    body = realize.block.body
    found = []
    for nest in list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]:
        while isinstance(nest, tirx.For):
            nest = nest.body
        if not hasattr(nest, "block"):
            return []
        found.append(nest.block)
    return found


def spec_of(function: Any) -> dict[str, Any] | None:
    """What our annotation in a function says; None when there is none."""
    for block in blocks_of(function):
        if MARK in block.annotations:
            spec: dict[str, Any] = json.loads(str(block.annotations[MARK]))
            return spec
    return None


def take_apart(function: Any) -> Fused:
    """Find the parts.

    Raises:
        NotTaken: something stands before the operator, or what follows is not elementwise.
    """
    blocks = blocks_of(function)
    if not blocks or MARK not in blocks[0].annotations:
        raise NotTaken("the operator is not first")
    main = blocks[0]
    parameters = tuple(function.params)
    made = main.writes[0].source
    shape = tuple(int(n) for n in made.shape)
    steps = []
    for block in blocks[1:]:
        stored = block.body
        if not isinstance(stored, tirx.BufferStore) or block.init is not None:
            raise NotTaken("a reduction follows")
        variables = tuple(axis.var for axis in block.iter_vars)
        same = len(variables) == len(stored.indices) and all(
            index.same_as(variable)
            for index, variable in zip(stored.indices, variables, strict=True)
        )
        if not same or tuple(int(n) for n in stored.buffer.shape) != shape:
            raise NotTaken("what follows has another shape")
        steps.append(Step(variables, stored.value, stored.buffer))
    inputs = tuple(region.source for region in main.reads if not region.source.same_as(made))
    return Fused(
        json.loads(str(main.annotations[MARK])), parameters, inputs, made, tuple(steps), shape
    )


class Finish:
    """Writes an operator's result, with all that follows done to it.

    Args:
        fused: the function.

    The kernel sees the result as ``rows x columns``: the last dimension, and all others as one.
    """

    def __init__(self, fused: Fused) -> None:
        self._fused = fused
        self._lead = fused.shape[:-1]
        self._views: dict[Any, Any] = {}
        #: statements that must stand before all that this object makes
        self.declared: list[Any] = []

    def view(self, of: Any) -> Any:
        """The same buffer as rows x columns."""
        for known, made in self._views.items():
            if known.same_as(of):
                return made
        size = 1
        for n in of.shape[:-1]:
            size *= int(n)
        made, declared = nodes.view(of, (size, int(of.shape[-1])), f"{of.name}_rows")
        self._views[of] = made
        self.declared.append(declared)
        return made

    def __call__(self, value: Any, row: Any, column: Any, lanes: int) -> list[Any]:
        """Statements that store ``lanes`` values of one row.

        Raises:
            NotTaken: what follows reads in a way that is not known here.
        """
        fused = self._fused
        output = self.view(fused.output)
        if not fused.steps:
            return [nodes.store(output, (row, column), value, lanes)]
        known: list[tuple[Any, Any]] = []
        first, alloc = nodes.scratch(lanes, "made")
        statements = [alloc, nodes.store(first, (0,), value, lanes)]
        known.append((fused.made, first))
        for step in fused.steps[:-1]:
            place, alloc = nodes.scratch(lanes, "step")
            lifted = self._lift(step.value, step.variables, known, row, column, lanes)
            statements += [alloc, nodes.store(place, (0,), _wide(lifted, lanes), lanes)]
            known.append((step.result, place))
        step = fused.steps[-1]
        lifted = self._lift(step.value, step.variables, known, row, column, lanes)
        statements.append(nodes.store(output, (row, column), _wide(lifted, lanes), lanes))
        return statements

    def _lift(
        self,
        value: Any,
        variables: Sequence[Any],
        known: Sequence[tuple[Any, Any]],
        row: Any,
        column: Any,
        lanes: int,
    ) -> Any:
        def read(one: Any) -> Any:
            source, indices = one.source, list(one.indices)
            for made, place in known:
                if source.same_as(made):
                    self._require_same(indices, variables, source)
                    return nodes.load(place, (0,), lanes)
            return self._outside(source, indices, variables, row, column, lanes)

        return lift(value, read)

    def _require_same(self, indices: Sequence[Any], variables: Sequence[Any], of: Any) -> None:
        for index, variable, size in zip(indices, variables, of.shape, strict=True):
            if not index.same_as(variable) and int(size) != 1:
                raise NotTaken("what follows moves elements")

    def _outside(
        self,
        source: Any,
        indices: Sequence[Any],
        variables: Sequence[Any],
        row: Any,
        column: Any,
        lanes: int,
    ) -> Any:
        shape = tuple(int(n) for n in source.shape)
        if not indices:
            return tirx.BufferLoad(source, [])
        wide = indices[-1].same_as(variables[-1]) and shape[-1] > 1
        if not wide and not isinstance(indices[-1], tirx.IntImm) and shape[-1] != 1:
            raise NotTaken("what follows reads across columns")
        lead = indices[:-1]
        if all(isinstance(index, tirx.IntImm) for index in lead) or not lead:
            place: list[Any] = list(lead)
        elif shape[:-1] == self._lead:
            self._require_same(lead, variables[:-1], _Shaped(shape[:-1]))
            source, place = self.view(source), [row]
        else:
            place = self._unravelled(lead, variables, row, shape)
        if wide:
            return nodes.load(source, [*place, column], lanes)
        return nodes.load(source, [*place, nodes.integer(0)])

    def _unravelled(
        self, lead: Sequence[Any], variables: Sequence[Any], row: Any, shape: Sequence[int]
    ) -> list[Any]:
        """Indices of the leading dimensions, from the row's number."""
        places: list[Any] = []
        below = 1
        for size in reversed(self._lead):
            places.insert(0, tirx.floormod(tirx.floordiv(row, below), size) if size > 1 else 0)
            below *= size
        found = []
        for index, size in zip(lead, shape, strict=False):
            at = [k for k, variable in enumerate(variables[:-1]) if index.same_as(variable)]
            if size == 1:
                found.append(nodes.integer(0))
            elif at:
                found.append(places[at[0]])
            else:
                raise NotTaken("what follows reads elsewhere")
        return found


@dataclass(frozen=True)
class _Shaped:
    shape: tuple[int, ...]


def _wide(value: Any, lanes: int) -> Any:
    return nodes.spread(value, lanes) if _lanes(value) == 1 else value


def _lanes(value: Any) -> int:
    kind = str(value.ty)
    return int(kind.rpartition("x")[2]) if "x" in kind else 1


def lift(value: Any, read: Callable[[Any], Any]) -> Any:
    """An expression with every load replaced by ``read(load)``, which may be a vector.

    Raises:
        NotTaken: a kind of expression that is not known here.
    """
    if isinstance(value, tirx.FloatImm | tirx.IntImm):
        return value
    if hasattr(value, "indices") and hasattr(value, "source"):
        return read(value)
    made = _PAIRS.get(type(value))
    if made is not None:
        return made(*_equal([lift(value.a, read), lift(value.b, read)]))
    if isinstance(value, tirx.Not):
        return tirx.Not(lift(value.a, read))
    if isinstance(value, tirx.Select):
        parts = [value.condition, value.true_value, value.false_value]
        return tirx.Select(*_equal([lift(part, read) for part in parts]))
    if isinstance(value, tirx.Cast):
        inner = lift(value.value, read)
        lanes = _lanes(inner)
        return tirx.Cast(f"{value.ty}x{lanes}" if lanes > 1 else str(value.ty), inner)
    if hasattr(value, "op") and hasattr(value, "args"):
        if str(value.op.name) == "tirx.if_then_else":
            return tirx.Select(*_equal([lift(part, read) for part in value.args]))
        parts = _equal([lift(part, read) for part in value.args])
        lanes = _lanes(parts[0]) if parts else 1
        kind = f"{value.ty}x{lanes}" if lanes > 1 else str(value.ty)
        return tirx.call_intrin(kind, value.op, *parts)
    raise NotTaken(f"expressions of kind {type(value).__name__}")


def _equal(parts: Sequence[Any]) -> list[Any]:
    lanes = max(_lanes(part) for part in parts)
    return [_wide(part, lanes) for part in parts]
