"""The self-test: recorded inputs through the runtime, compared with recorded outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .errors import VERIFICATION, RunnerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OutputCheck(NamedTuple):
    """How one output compares.

    Attributes:
        output: its name.
        max_abs_error: largest absolute difference over all cases; None when a value is not finite.
        allowed: the largest one accepted.
        passed: whether it is within.
    """

    output: str
    max_abs_error: float | None
    allowed: float
    passed: bool


def compare(
    run: Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]],
    inputs: NDArray[np.float32],
    expected: Mapping[str, NDArray[np.float32]],
    allowed: Mapping[str, float],
) -> list[OutputCheck]:
    """Run every case and compare every output.

    Args:
        run: (B, 3, H, W) -> output name -> array.
        inputs: (cases, B, 3, H, W).
        expected: output name -> (cases, ...).
        allowed: output name -> largest absolute error accepted.

    Returns:
        One entry per expected output, in that order.

    Raises:
        RunnerError: an output is missing or has another shape.
    """
    import numpy as np

    worst: dict[str, list[float]] = {name: [] for name in expected}
    for case in range(len(inputs)):
        results = run(inputs[case].copy())
        for name, recorded in expected.items():
            if name not in results or results[name].shape != recorded.shape[1:]:
                found = results[name].shape if name in results else "nothing"
                raise RunnerError(
                    VERIFICATION,
                    f"output '{name}' should have shape {recorded.shape[1:]}, the runtime "
                    f"returned {found}",
                )
            # float64, so that the difference of two large values is not rounded away.
            difference = np.abs(results[name].astype(np.float64) - recorded[case])
            worst[name].append(float(difference.max()) if difference.size else 0.0)
    return [_judge(name, worst[name], float(allowed[name])) for name in expected]


def _judge(name: str, errors: Sequence[float], allowed: float) -> OutputCheck:
    largest = 0.0
    for error in errors:
        # max() would drop a NaN that is not in first place; any value not finite is a failure.
        if not error < float("inf"):
            return OutputCheck(name, None, allowed, False)
        largest = max(largest, error)
    return OutputCheck(name, largest, allowed, largest <= allowed)


def failure(checks: Sequence[OutputCheck]) -> str | None:
    """The sentence about the first output that failed, None when all passed."""
    for check in checks:
        if not check.passed:
            found = "is not finite" if check.max_abs_error is None else f"{check.max_abs_error:.3g}"
            return (
                f"self-test: output '{check.output}' differs from the recorded one: largest error "
                f"{found}, allowed {check.allowed:.3g}"
            )
    return None
