"""Budgets and tolerances of the published method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.compress.tolerances import Tolerances, default_first, solve_lambda
from edgemtl.errors import UsageError


# Golden values of the specification (design/papers/pagcp.md, section 1).
@pytest.mark.parametrize(
    ("units", "first", "budget", "ratio", "digits", "last"),
    [
        (69, 0.06, 6.0, 0.97158, 5, 0.00845),
        (52, 0.06, 6.0, 0.9769, 4, 0.0182),
        (86, 0.06, 6.0, 0.9693, 4, 0.0042),
        (103, 0.06, 6.0, 0.9682, 4, 0.0022),
        (24, 0.05, 2.0, 0.94948, 5, 0.01518),
        (52, 0.05, 30.0, 1.01136, 5, 0.0890),
    ],
)
def test_golden_lambdas(
    units: int, first: float, budget: float, ratio: float, digits: int, last: float
) -> None:
    found = solve_lambda(units, first, budget)
    assert round(found, digits) == ratio
    assert first * found ** (units - 1) == pytest.approx(last, abs=6e-5)


@given(
    units=st.integers(2, 120),
    budget=st.floats(1.02, 40.0),
    share=st.floats(0.05, 0.95),
)
def test_the_steps_multiply_to_the_budget(units: int, budget: float, share: float) -> None:
    first = share * (budget - 1)
    ratio = solve_lambda(units, first, budget)
    product = np.prod(1 + first * ratio ** np.arange(units))
    assert product == pytest.approx(budget, rel=1e-6)


@pytest.mark.parametrize(
    ("units", "first", "budget"), [(0, 0.1, 2.0), (5, 0.0, 2.0), (5, 0.1, 1.0), (5, 1.0, 2.0)]
)
def test_impossible_budgets_are_refused(units: int, first: float, budget: float) -> None:
    with pytest.raises(UsageError):
        solve_lambda(units, first, budget)


def test_tolerances_shrink_on_commit_only_and_each_task_has_its_own() -> None:
    tolerances = Tolerances.plan(10, {"a": 2.0, "b": 1.2}, {"a": 0.1})
    assert tolerances.now[0] == 0.1
    assert tolerances.now[1] == pytest.approx(default_first(10, 1.2))
    product = np.ones(2)
    for _ in range(10):
        product *= 1 + tolerances.now
        tolerances.committed()
    np.testing.assert_allclose(product, [2.0, 1.2], rtol=1e-6)


def test_the_order_flips_with_lambda() -> None:
    assert Tolerances.plan(69, {"a": 6.0}, {"a": 0.06}).largest_first
    assert not Tolerances.plan(52, {"a": 30.0}, {"a": 0.05}).largest_first
