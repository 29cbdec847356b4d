"""What a look at held-out pictures teaches the way down."""

from __future__ import annotations

import numpy as np

from edgemtl.compress.compensation.allowance import Allowance
from edgemtl.compress.compensation.check import Place
from edgemtl.compress.compensation.descent import factors, harm
from edgemtl.compress.compensation.solve import Compensation
from edgemtl.compress.held_out import Judged


def place_of(ratio: list[float], drop: list[float]) -> Place:
    judged = Judged(*(np.zeros(len(ratio)) for _ in range(3)))
    none = Compensation.none(len(ratio))
    return Place({}, none, judged, np.array(ratio), np.array(drop))


def test_a_task_that_suffers_more_than_predicted_counts_more() -> None:
    found = factors(np.array([1e-3, 1e-3]), np.array([0.3, 0.1]))
    assert 1.4 < found[0] < 1.5 and 0.5 < found[1] < 0.6
    right = factors(np.array([3e-3, 1e-3]), np.array([0.3, 0.1]))
    np.testing.assert_allclose(right, 1.0)


def test_harm_that_drowns_in_noise_teaches_nothing() -> None:
    found = factors(np.array([1e-3, 2e-3, 1e-3]), np.array([0.0, 1e-5, 2e-5]))
    np.testing.assert_allclose(found, 1.0, atol=0.01)
    nothing = factors(np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(nothing, 1.0)
    assert factors(np.array([1.0, 1.0]), np.array([1e6, 0.0])).min() > 0.1


def test_harm_is_what_figure_and_loss_say_or_what_there_is() -> None:
    place = place_of([1.2, 0.9, 1.3, 1.1], [0.1, -0.2, np.nan, np.inf])
    found = harm(place)
    np.testing.assert_allclose(found[:2], [0.15, 0.0])
    # A figure that is not there, or is lost, says no number. A loss alone counts half, as it does
    # beside a figure that has not moved.
    np.testing.assert_allclose(found[2:], [0.15, 0.05])


def test_shares_are_of_gates_and_limits_name_task_and_number() -> None:
    asked = Allowance.of(["a", "b", "c"], {"a": 0.02, "b": 0.0}, {"b": 1.2}, {"a": 0.01})
    np.testing.assert_allclose(asked.shares, [0.02, 0.002, 0.02])
    assert asked.broken(np.array([9.0, 1.1, 9.0]), np.array([0.0, 5.0, 5.0])) == []
    over = asked.broken(np.array([1.0, 1.25, 1.0]), np.array([0.02, 0.0, np.nan]))
    assert [task for task, _ in over] == [1, 0]
    assert "budget 1.2" in over[0][1] and "1.0% is allowed" in over[1][1]
