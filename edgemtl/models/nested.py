"""Tensors inside what operators take and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def tensors_of(values: Sequence[Any]) -> list[Tensor]:
    """All tensors among the values, nested lists and tuples included, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(tensors_of(value))
    return found
