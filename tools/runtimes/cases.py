"""A graph with one float32 input, what goes in, and what has to come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: an answer is right when it is off by no more than this share of the wanted values' range
SHARE = 1e-4


@dataclass(frozen=True)
class Case:
    """One question to a runtime.

    Attributes:
        name: no other case has it; ``source/what/variant``.
        model: serialised ONNX, one float32 input, static shapes.
        image: what goes in.
        wanted: what has to come out, in the order of the graph's outputs.
        relative, absolute: tolerance of the case itself, as ``numpy.allclose`` has it.
    """

    name: str
    model: bytes = field(repr=False)
    image: NDArray[np.float32] = field(repr=False)
    wanted: tuple[NDArray[Any], ...] = field(repr=False)
    relative: float = 1e-3
    absolute: float = 1e-7

    @property
    def source(self) -> str:
        """Where it comes from: "node", "torch" or "random"."""
        return self.name.partition("/")[0]

    @property
    def variant(self) -> str:
        """Form of the case, the last part of its name."""
        return self.name.rpartition("/")[2]


def difference(case: Case, answers: Sequence[NDArray[Any]]) -> str:
    """What is wrong with these answers; empty when they are right."""
    if len(answers) != len(case.wanted):
        return f"{len(answers)} outputs instead of {len(case.wanted)}"
    for index, (found, wanted) in enumerate(zip(answers, case.wanted, strict=True)):
        if found.shape != wanted.shape:
            return f"output {index} has shape {found.shape} instead of {wanted.shape}"
        if wanted.dtype == bool or wanted.dtype.kind in "iu":
            if not np.array_equal(found.astype(np.float64), wanted.astype(np.float64)):
                return f"output {index} has other integers"
            continue
        if off := _apart(case, found.astype(np.float64), wanted.astype(np.float64)):
            return f"output {index} {off}"
    return ""


def _apart(case: Case, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> str:
    if np.allclose(found, wanted, case.relative, case.absolute, equal_nan=True):
        return ""
    finite = np.isfinite(wanted)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if not np.all(same[~finite]) or not np.all(np.isfinite(found[finite])):
        return "has other values that are not finite"
    if not finite.any():
        return ""
    values = wanted[finite]
    extent = max(float(np.ptp(values)), float(np.abs(values).max()))
    off = float(np.abs(found[finite] - values).max())
    return "" if off <= SHARE * extent else f"is off by {off / (extent or 1.0):.1e} of its range"


def packed(
    inputs: Sequence[tuple[str, NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], list[Any], list[Any]]:
    """All float inputs as slices of one, so that none of them is a constant.

    Returns:
        The one input (1, N), the nodes that take it apart, and the constants that those read.
    """
    from onnx import helper, numpy_helper

    flat = np.concatenate([value.ravel() for _, value in inputs]).astype(np.float32)[None]
    nodes, constants, start = [], [], 0
    for index, (name, value) in enumerate(inputs):
        ends = [np.array([n], np.int64) for n in (start, start + value.size, 1)]
        names = [f"cut{index}_{part}" for part in ("start", "end", "axis")]
        constants += [numpy_helper.from_array(e, n) for e, n in zip(ends, names, strict=True)]
        constants.append(
            numpy_helper.from_array(np.array(value.shape, np.int64), f"cut{index}_shape")
        )
        part = f"cut{index}"
        if len(inputs) > 1:
            nodes.append(helper.make_node("Slice", ["packed", *names], [part], part))
        else:
            part = "packed"
        nodes.append(
            helper.make_node("Reshape", [part, f"cut{index}_shape"], [name], f"cut{index}_reshape")
        )
        start += value.size
    return flat, nodes, constants
