"""A layer's time as a function of the widths of both its sides.

Runtimes compute in blocks of as many channels as a vector register holds, and convolutions take
several blocks of output channels at once; what a layer reads and writes grows with its widths
whatever it computes. So the time is a sum of such terms, with factors that are never negative
(Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23): a narrower layer then never
costs more, and a width between those that were measured costs what its blocks cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: blocks of output channels that one pass over the input computes in the runtimes' kernels
SET = 4
#: a layer below this share of the largest of its kind counts as if it took that long
FAINT = 0.02
#: rounds of reweighting, and from how many typical deviations on a sample counts for less
ROUNDS, CLEAR = 3, 2.0

Numbers = NDArray[np.float64]


def terms(inputs: Numbers, outputs: Numbers, block: int) -> Numbers:
    """(..., terms) for channels read and written, (...,) each; every term rises with both."""
    read, written = np.ceil(inputs / block - 1e-9), np.ceil(outputs / block - 1e-9)
    sets = np.ceil(written / SET - 1e-9)
    exact = inputs * outputs / block**2
    columns = (np.ones_like(read), read, written, sets, read * written, read * sets, exact)
    return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class Curve:
    """What layers of one kind take.

    Attributes:
        factors: ms per term, none negative.
    """

    factors: tuple[float, ...]

    def at(self, inputs: Numbers, outputs: Numbers, block: int) -> Numbers:
        """ms with so many channels read and written, (...,) each."""
        found: Numbers = terms(inputs, outputs, block) @ np.array(self.factors)
        return found


def fitted(inputs: Numbers, outputs: Numbers, ms: Numbers, block: int) -> Curve:
    """The curve through measured times, (samples,) each; a time's spread grows with its root.

    A moment in which the machine did something else shows as a sample far off the others, which
    counts for less.
    """
    from scipy.optimize import nnls

    columns = terms(inputs, outputs, block)
    floor = FAINT * float(ms.max(initial=0.0)) + 1e-9
    scale = 1 / np.sqrt(np.maximum(ms, floor))
    weight = scale.copy()
    for _ in range(ROUNDS):
        factors, _ = nnls(columns * weight[:, None], ms * weight)
        off = np.abs(columns @ factors - ms) * scale
        typical = 1.4826 * float(np.median(off)) + 1e-12
        weight = scale * np.sqrt(np.minimum(1.0, CLEAR * typical / np.maximum(off, 1e-12)))
    return Curve(tuple(float(factor) for factor in factors))
