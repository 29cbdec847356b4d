"""Copy a network whose modules were given functions of the user's own.

``copy.deepcopy`` copies modules but no functions: a forward that was set on one module and closes
over others goes on reading those of the original.
"""

from __future__ import annotations

import copy
import types
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copied(network: Module) -> Module:
    """A copy that shares nothing that can be trained, its modules' own functions included."""
    memo: dict[int, Any] = {}
    made = copy.deepcopy(network, memo)
    for original, module in zip(network.modules(), made.modules(), strict=True):
        for name, value in vars(original).items():
            if isinstance(value, types.FunctionType) and value.__closure__:
                vars(module)[name] = _rebound(value, memo)
    return made


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """The same function over the copies of what it closes over, where there are copies."""
    known = memo.get(id(function))
    if isinstance(known, types.FunctionType) and known is not function:
        return known
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(types.CellType() for _ in function.__closure__ or ()),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    memo[id(function)] = made  # a function may close over itself
    for cell, new in zip(function.__closure__ or (), made.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # a name that was never given a value
            continue
        new.cell_contents = _copy_of(value, memo)
    return made


def _copy_of(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, types.FunctionType) and value.__closure__:
        return _rebound(value, memo)
    if isinstance(value, types.MethodType) and id(value.__self__) in memo:
        return types.MethodType(value.__func__, memo[id(value.__self__)])
    return memo.get(id(value), value)
