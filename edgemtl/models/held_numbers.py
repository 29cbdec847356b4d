"""Numbers that a module holds: as an attribute, in a tuple or list, in a configuration object.

A number's path is ``hidden``, ``sizes.0`` or ``config.hidden``: names of attributes, keys of
dictionaries and places in sequences, joined by dots.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

#: how far below a module numbers are looked for, and in how long a sequence
_DEEP, _LONG = 3, 64


def held_numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """(path, value) of every whole number that ``module`` itself holds, not its children."""
    for name, value in vars(module).items():
        if not name.startswith("_"):
            yield from _within(name, value, 1, [])


def _within(path: str, value: Any, depth: int, above: list[Any]) -> Iterator[tuple[str, int]]:
    if type(value) is int:
        yield path, value
    elif depth < _DEEP and not any(value is one for one in above):
        for key, item in _items(value):
            yield from _within(f"{path}.{key}", item, depth + 1, [*above, value])


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        return [(str(place), item) for place, item in enumerate(value[:_LONG])]
    if isinstance(value, dict):
        return [(key, i) for key, i in value.items() if isinstance(key, str) and "." not in key]
    if isinstance(value, nn.Module | Tensor | type) or callable(value):
        return []
    return list(getattr(value, "__dict__", {}).items())


def number_at(module: nn.Module, path: str) -> int | None:
    """The whole number at a path; None where there is none."""
    value: Any = module
    for part in path.split("."):
        held = vars(module) if value is module else dict(_items(value))
        if part not in held:
            return None
        value = held[part]
    return value if type(value) is int else None


def set_number(module: nn.Module, path: str, number: int) -> None:
    """Put another number at a path of :func:`held_numbers`.

    What holds it is copied first: a configuration object that several modules share keeps its
    numbers for the others.
    """
    name, *rest = path.split(".")
    setattr(module, name, _changed(vars(module)[name], rest, number) if rest else number)


def _changed(holder: Any, path: list[str], number: int) -> Any:
    name, *rest = path
    inner = dict(_items(holder))[name]
    value = _changed(inner, rest, number) if rest else number
    if isinstance(holder, tuple):
        parts = [*holder[: int(name)], value, *holder[int(name) + 1 :]]
        return type(holder)(*parts) if hasattr(holder, "_fields") else type(holder)(parts)
    copied = copy.copy(holder)
    if isinstance(holder, list):
        copied[int(name)] = value
    elif isinstance(holder, dict):
        copied[name] = value
    else:
        object.__setattr__(copied, name, value)  # dataclasses may be frozen
    return copied
