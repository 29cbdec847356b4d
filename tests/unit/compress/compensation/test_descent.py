"""What predictions count with: measured over predicted harm; noise says little."""

from __future__ import annotations

import numpy as np
import pytest

from edgemtl.compress.compensation.descent import (
    NOISE,
    SMALLEST_FACTOR,
    SMALLEST_HARM,
    factors,
    first_ratio,
)


def test_the_first_ratio_is_measured_over_predicted_harm_and_never_nothing() -> None:
    found = first_ratio(np.array([0.01, 0.002]), np.array([0.05, -0.03]))
    np.testing.assert_allclose(found, [5.0, SMALLEST_HARM / 0.002])


def test_a_task_that_nothing_is_predicted_to_harm_counts_as_the_others_do() -> None:
    found = first_ratio(np.array([0.01, 0.0, 0.02]), np.array([0.02, 0.5, 0.08]))
    np.testing.assert_allclose(found, [2.0, 3.0, 4.0])


def test_noise_early_on_the_way_leaves_the_first_ratio_as_it_is() -> None:
    # One task "gained" by luck; nothing is predicted yet.
    scale = np.array([2.0, 2.0, 8.0])
    found = factors(np.full(3, 1e-6), np.array([-0.001, 0.0005, 0.0]), scale)
    np.testing.assert_allclose(found, scale / scale.mean(), rtol=0.06)


def test_harm_that_stands_out_takes_the_place_of_the_first_ratio() -> None:
    scale = np.array([1.0, 1.0])
    measured, predicted = np.array([4.0, 1.0]), np.array([1.0, 1.0])
    raw = (measured + NOISE) / (predicted + NOISE)
    np.testing.assert_allclose(factors(predicted, measured, scale), raw / raw.mean())
    assert factors(predicted, measured, scale)[0] == pytest.approx(1.6, rel=0.01)


def test_no_task_stops_counting() -> None:
    found = factors(np.array([1.0, 1.0]), np.array([100.0, 0.0]), np.ones(2))
    assert found[1] == SMALLEST_FACTOR
