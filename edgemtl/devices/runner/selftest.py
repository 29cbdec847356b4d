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
        mean_error: mean absolute difference, over the worst case; None when a value is not finite.
        allowed_mean: the largest one accepted; None when it is not judged.
    """

    output: str
    max_abs_error: float | None
    allowed: float
    passed: bool
    mean_error: float | None = None
    allowed_mean: float | None = None


def compare(
    run: Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]],
    inputs: NDArray[np.float32],
    expected: Mapping[str, NDArray[np.float32]],
    allowed: Mapping[str, float],
    allowed_mean: Mapping[str, float] | None = None,
) -> list[OutputCheck]:
    """Run every case and compare every output.

    Args:
        run: (B, 3, H, W) -> output name -> array.
        inputs: (cases, B, 3, H, W).
        expected: output name -> (cases, ...).
        allowed: output name -> largest absolute error accepted.
        allowed_mean: output name -> largest mean absolute error accepted, of those judged by it.

    Returns:
        One entry per expected output, in that order.

    Raises:
        RunnerError: an output is missing or has another shape.
    """
    import numpy as np

    worst: dict[str, list[tuple[float, float]]] = {name: [] for name in expected}
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
            largest = float(difference.max()) if difference.size else 0.0
            worst[name].append((largest, float(difference.mean()) if difference.size else 0.0))
    means = allowed_mean or {}
    return [_judge(n, worst[n], float(allowed[n]), means.get(n)) for n in expected]


def _judge(
    name: str, errors: Sequence[tuple[float, float]], allowed: float, allowed_mean: float | None
) -> OutputCheck:
    largest = mean = 0.0
    for one, average in errors:
        # max() would drop a NaN that is not in first place; any value not finite is a failure.
        if not one < float("inf"):
            return OutputCheck(name, None, allowed, False, None, allowed_mean)
        largest, mean = max(largest, one), max(mean, average)
    passed = largest <= allowed and (allowed_mean is None or mean <= allowed_mean)
    return OutputCheck(name, largest, allowed, passed, mean, allowed_mean)


def failure(checks: Sequence[OutputCheck]) -> str | None:
    """The sentence about the first output that failed, None when all passed."""
    for check in checks:
        if check.passed:
            continue
        what, found, allowed = "largest", check.max_abs_error, check.allowed
        if found is not None and found <= allowed and check.allowed_mean is not None:
            what, found, allowed = "mean", check.mean_error, check.allowed_mean
        told = "is not finite" if found is None else f"{found:.3g}"
        return (
            f"self-test: output '{check.output}' differs from the recorded one: {what} error "
            f"{told}, allowed {allowed:.3g}"
        )
    return None
