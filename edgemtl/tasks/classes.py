"""What the tasks that know classes share: their names, and reading labels that name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import InputRefused


def class_names(classes: Sequence[str], kind: str, least: int = 2) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        TypeError: not a list of names.
        ValueError: fewer than ``least``, or two alike.
    """
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise TypeError("'classes' is a list of class names")
    names = tuple(classes)
    if len(names) < least or len(set(names)) != len(names):
        counted = {1: "one or more classes", 2: "two or more classes"}[least]
        raise ValueError(f"{kind} needs {counted} with different names")
    return names


def class_index(label: Any, classes: Sequence[str], task: str) -> int:
    """The number of a class that a label names, by its name or its number.

    A name is looked for first, so that classes may be called ``"10"`` and ``"20"``; what is no name
    is a number, also as text.

    Raises:
        InputRefused: no such class.
    """
    number: int | None = None
    if isinstance(label, float | np.floating) and float(label).is_integer():
        label = int(label)  # a column of numbers is read as such
    if isinstance(label, str | int | np.integer) and not isinstance(label, bool):
        text = str(label).strip()
        if text in classes:
            return classes.index(text)
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None
    if number is None or not number < len(classes):
        known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        raise InputRefused(
            f"a label of task '{task}' is {str(label)[:60]!r}, which is none of its "
            f"{len(classes)} classes",
            hint=f"its classes: {known}; numbers go from 0 to {len(classes) - 1}",
        )
    return number


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., C) logits -> probabilities; NaN where a logit is not finite."""
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits -> probabilities; NaN stays NaN."""
    # the clip only keeps exp from overflowing: float32 rounds both ends to 0 and 1 anyway
    wide = np.clip(logits.astype(np.float64), -700, 700)
    return np.asarray(1 / (1 + np.exp(-wide)), np.float32)


def no_label(label: str, seen: set[str]) -> str:
    """The note of a metric that found no label of its kind."""
    others = f"; the data has: {', '.join(sorted(seen))}" if seen else ""
    return f"no picture has a label '{label}'{others}"
