"""Recording the self-test: what the artefact answered where it was built."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Session
from edgemtl.errors import StageFailed

#: largest absolute error allowed, as a share of the recorded output's largest absolute value. Other
#: processors add up in another order, which moves float32 results by about 1e-5 of that; a wrong
#: weight or input order moves them by tens of percent.
RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SelfTest:
    """Recorded inputs and outputs.

    Attributes:
        inputs: (cases, B, 3, H, W) float32, normalised.
        expected: output name -> (cases, ...) float32, in the order of the graph.
        max_abs_error: output name -> largest absolute error that still passes.
    """

    inputs: NDArray[np.float32]
    expected: Mapping[str, NDArray[np.float32]]
    max_abs_error: Mapping[str, float]

    def check(self) -> None:
        """Raise :class:`StageFailed` unless shapes, names and values make a usable self-test."""
        if self.inputs.ndim != 5 or not len(self.inputs):
            raise StageFailed(f"self-test inputs have shape {self.inputs.shape}")
        if not self.expected or set(self.expected) != set(self.max_abs_error):
            raise StageFailed("the self-test needs a tolerance for every output")
        for name, values in self.expected.items():
            if len(values) != len(self.inputs) or not np.isfinite(values).all():
                raise StageFailed(
                    f"output '{name}' of the self-test is not finite or lacks cases",
                    hint="the network does not compute usable values on these inputs",
                )


def record_selftest(
    session: Session,
    inputs: NDArray[np.float32],
    relative_tolerance: float = RELATIVE_TOLERANCE,
) -> SelfTest:
    """Run the artefact on real inputs and keep what it answers.

    Args:
        session: of the artefact that goes into the bundle.
        inputs: (cases, B, 3, H, W) float32, normalised; one or two pictures are enough.
        relative_tolerance: see :data:`RELATIVE_TOLERANCE`; int8 artefacts need more, because one
            step of a rounded activation is visible.

    Raises:
        StageFailed: the session fails, or an output is not finite.
    """
    runs = [session.run(np.ascontiguousarray(images)) for images in inputs]
    expected = {
        name: np.stack([run[name] for run in runs]).astype(np.float32) for name in session.outputs
    }
    allowed = {
        # An output that is zero everywhere still needs room for rounding.
        name: relative_tolerance * max(float(np.abs(values).max(initial=0.0)), 1e-3)
        for name, values in expected.items()
    }
    selftest = SelfTest(np.asarray(inputs, np.float32), expected, allowed)
    selftest.check()
    return selftest


def npy_bytes(array: NDArray[np.float32]) -> bytes:
    """An array as ``.npy`` format 1.0, little-endian float32, C order."""
    stream = io.BytesIO()
    plain = np.ascontiguousarray(array, dtype="<f4")
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
