"""Sizes of traced tensors as numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined]


def numbers(values: Iterable[Any]) -> tuple[int, ...]:
    """Sizes as plain numbers; while tracing they are tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)  # sizes are static in an export
        return tuple(int(value) for value in values)


def sizes(tensor: Tensor) -> tuple[int, ...]:
    """The shape as plain numbers, while tracing too."""
    return numbers(tensor.shape)


def several(value: Any, count: int) -> tuple[int, ...]:
    """A number or a sequence of them, as torch's layers take both, as ``count`` numbers."""
    listed = numbers(value if isinstance(value, tuple | list) else (value,))
    return listed * count if len(listed) == 1 else listed
