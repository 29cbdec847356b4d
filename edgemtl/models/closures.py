"""Functions that a copied network still shares with its original.

A forward put on a module as a function (``layer.forward = forward``) remembers modules of its
surroundings. Copying the network copies the modules and not what such a function remembers: the
copy would go on computing with the original's layers.
"""

from __future__ import annotations

from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn


def rebind_closures(copied: nn.Module, memo: dict[int, Any]) -> None:
    """Let functions on the copy's modules, and its hooks, mean the copy's modules and tensors.

    Args:
        copied: just made by ``copy.deepcopy``.
        memo: of that copy: id of an original -> its copy.
    """
    for module in copied.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType):
                vars(module)[name] = _rebound(value, memo)
            elif isinstance(value, dict):
                for key, item in value.items():
                    if isinstance(item, FunctionType):
                        value[key] = _rebound(item, memo)


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The same function over the copies of what it closes over, where there are copies."""
    if not function.__closure__:
        return function
    known = memo.get(id(function))
    if isinstance(known, FunctionType) and known is not function:
        return known
    made = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(CellType() for _ in function.__closure__),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    memo[id(function)] = made  # a function may close over itself
    for cell, new in zip(function.__closure__, made.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
        new.cell_contents = _copy_of(held, memo)
    return made


def _copy_of(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, FunctionType):
        return _rebound(value, memo)
    if isinstance(value, MethodType) and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    return memo.get(id(value), value)
