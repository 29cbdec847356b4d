"""Functions that a copied network still shares with its original.

A forward put on a module as a function (``layer.forward = forward``) remembers modules of its
surroundings. Copying the network copies the modules and not what such a function remembers: the
copy would go on computing with the original's layers.
"""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn


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
    cells = function.__closure__ or ()
    changed = []
    for cell in cells:
        try:
            held = cell.cell_contents
        except ValueError:  # a name that has no value yet
            changed.append(cell)
            continue
        new = held
        if isinstance(held, nn.Module | Tensor):
            new = memo.get(id(held), held)
        elif isinstance(held, FunctionType) and held is not function:
            new = _rebound(held, memo)
        changed.append(cell if new is held else CellType(new))
    if all(new is old for new, old in zip(changed, cells, strict=True)):
        return function
    made = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(changed),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made
