"""Recording the self-test: what the artefact answered where it was built."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.session import Session
from edgemtl.errors import StageFailed


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from the recorded one.

    Attributes:
        largest: any one value, as a share of the output's largest absolute value.
        mean: all values on average, as a share of the output's standard deviation; None where the
            first says enough.
    """

    largest: float
    mean: float | None = None


#: Other processors add up in another order, which moves float32 results by about 1e-5 of their
#: range. Where that falls on the edge between two steps of a rounded activation it moves single
#: values by much more: two ways of running one int8 graph in ONNX Runtime differed by up to 0.17,
#: and on average by 0.08. Another picture or wrong weights move the average by 0.25 and more.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(1e-3),
    "fp16": Tolerance(0.03, 0.02),
    "int8": Tolerance(0.35, 0.2),
}


@dataclass(frozen=True)
class SelfTest:
    """Recorded inputs and outputs.

    Attributes:
        inputs: (cases, B, 3, H, W) float32, normalised.
        expected: output name -> (cases, ...) float32, in the order of the graph.
        max_abs_error: output name -> largest absolute error that still passes.
        max_mean_error: output name -> largest mean absolute error that still passes; an output that
            is not named is not judged by it.
    """

    inputs: NDArray[np.float32]
    expected: Mapping[str, NDArray[np.float32]]
    max_abs_error: Mapping[str, float]
    max_mean_error: Mapping[str, float] = field(default_factory=dict)

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
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> SelfTest:
    """Run the artefact on real inputs and keep what it answers.

    Args:
        session: of the artefact that goes into the bundle.
        inputs: (cases, B, 3, H, W) float32, normalised; one or two pictures are enough.
        tolerance: of the precision that the artefact computes in.

    Raises:
        StageFailed: the session fails, or an output is not finite.
    """
    runs = [session.run(np.ascontiguousarray(images)) for images in inputs]
    expected = {
        name: np.stack([run[name] for run in runs]).astype(np.float32) for name in session.outputs
    }
    allowed = {
        # An output that is zero everywhere still needs room for rounding.
        name: tolerance.largest * max(float(np.abs(values).max(initial=0.0)), 1e-3)
        for name, values in expected.items()
    }
    mean: dict[str, float] = {}
    if tolerance.mean is not None:
        mean = {
            name: tolerance.mean * max(float(values.std()), 1e-3)
            for name, values in expected.items()
            if values.size
        }
    selftest = SelfTest(np.asarray(inputs, np.float32), expected, allowed, mean)
    selftest.check()
    return selftest


def npy_bytes(array: NDArray[np.float32]) -> bytes:
    """An array as ``.npy`` format 1.0, little-endian float32, C order."""
    stream = io.BytesIO()
    plain = np.ascontiguousarray(array, dtype="<f4")
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
