"""Short names for building loops; all indices are 64-bit, and a vector of one lane is a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.tirx import ForKind

SERIAL, PARALLEL, VECTORIZED = ForKind.SERIAL, ForKind.PARALLEL, ForKind.VECTORIZED


class NotTaken(Exception):
    """A template does not fit a function, which is then left to the next one."""


def integer(value: int) -> Any:
    """An index."""
    return tirx.IntImm("int64", value)


def real(value: float) -> Any:
    """A float32 constant."""
    return tirx.FloatImm("float32", value)


def buffer(shape: Sequence[int], name: str) -> Any:
    """A float32 buffer."""
    return tirx.decl_buffer([integer(n) for n in shape], "float32", name=name)


def view(of: Any, shape: Sequence[int], name: str) -> tuple[Any, Any]:
    """The same memory in another shape, and the statement that says so."""
    sizes = [integer(n) for n in shape]
    made = tirx.decl_buffer(sizes, "float32", name=name, data=of.data)
    return made, tirx.DeclBuffer(made, data=of.data)


def scratch(size: int, name: str) -> tuple[Any, Any]:
    """A small array that lives in registers where all its indices are constant."""
    made = tirx.decl_buffer((integer(size),), "float32", name=name, scope="local")
    return made, tirx.AllocBuffer(made)


def _index(indices: Sequence[Any], lanes: int) -> list[Any]:
    made = [integer(i) if isinstance(i, int) else i for i in indices]
    if lanes > 1:
        made[-1] = tirx.Ramp(made[-1], integer(1), lanes)
    return made


def load(of: Any, indices: Sequence[Any], lanes: int = 1) -> Any:
    """``lanes`` values side by side, beginning at ``indices``."""
    return tirx.BufferLoad(of, _index(indices, lanes))


def store(into: Any, indices: Sequence[Any], value: Any, lanes: int = 1) -> Any:
    """The statement that writes them."""
    return tirx.BufferStore(into, value, _index(indices, lanes))


def spread(value: Any, lanes: int) -> Any:
    """The same value in all lanes."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def block(statements: Sequence[Any]) -> Any:
    """One statement."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def nothing() -> Any:
    """A statement that does nothing."""
    return tirx.Evaluate(integer(0))


def loop(
    name: str,
    extent: Any,
    body: Callable[[Any], Sequence[Any]],
    kind: Any = SERIAL,
    start: Any = 0,
) -> list[Any]:
    """Statements for ``start <= variable < start + extent``; none of a loop that runs once."""
    if extent == 0:
        return []
    if isinstance(extent, int) and extent == 1:
        return list(body(integer(start) if isinstance(start, int) else start))
    variable = tirx.Var(name, "int64")
    first = integer(start) if isinstance(start, int) else start
    size = integer(extent) if isinstance(extent, int) else extent
    return [tirx.For(variable, first, size, kind, block(list(body(variable))))]


def when(condition: Any, body: Sequence[Any]) -> list[Any]:
    """A branch."""
    return [tirx.IfThenElse(condition, block(list(body)), None)]


def function(parameters: Sequence[Any], body: Sequence[Any]) -> Any:
    """A function that TVM's passes for scheduled code take."""
    # TVM's passes look for a block at the root.
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", block(list(body))))
    made = tirx.PrimFunc(list(parameters), root)
    return made.with_attr({"tirx.noalias": True, "s_tir": True, "tirx.is_scheduled": True})
