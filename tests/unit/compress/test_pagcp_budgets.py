"""Budgets, tolerances, the sequential test and the width search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.compress.pagcp.budgets import Tolerances, default_first, solve_lambda
from edgemtl.compress.pagcp.decision import FEWEST, Verdict, judge
from edgemtl.compress.pagcp.widths import between, farthest_passing, most_checks
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


def _labels(rises: np.ndarray) -> np.ndarray:
    return np.ones_like(rises, bool)


def test_a_clear_rise_is_rejected_and_a_clear_gain_accepted_early() -> None:
    rng = np.random.default_rng(0)
    rises = rng.normal(0.0, 0.01, (24, 2))
    assert judge(rises, np.array([0.1, 0.1]), _labels(rises), False) is Verdict.ACCEPT
    rises[:, 1] += 0.5
    assert judge(rises, np.array([0.1, 0.1]), _labels(rises), False) is Verdict.REJECT


def test_a_close_case_stays_open_until_the_last_picture() -> None:
    rng = np.random.default_rng(1)
    rises = rng.normal(0.1, 0.2, (24, 1))
    slack = np.array([0.1])
    assert judge(rises, slack, _labels(rises), False) is Verdict.OPEN
    expected = Verdict.ACCEPT if rises.mean() <= 0.1 else Verdict.REJECT
    assert judge(rises, slack, _labels(rises), True) is expected


def test_close_to_the_limit_the_mean_decides_once_it_is_known_well() -> None:
    slack = np.array([0.1])
    for mean, expected in ((0.099, Verdict.ACCEPT), (0.101, Verdict.REJECT)):
        rises = mean + np.where(np.arange(32) % 2, 0.04, -0.04)[:, None]  # known within 0.015
        assert judge(rises, slack, _labels(rises), False) is expected
        wider = mean + np.where(np.arange(32) % 2, 0.4, -0.4)[:, None]
        assert judge(wider, slack, _labels(wider), False) is Verdict.OPEN


def test_too_few_labels_decide_nothing_early_and_none_at_all_do_not_count() -> None:
    rises = np.full((FEWEST, 2), 0.01) + np.linspace(0, 1e-3, FEWEST)[:, None]
    labelled = _labels(rises)
    labelled[1:, 1] = False
    slack = np.array([1.0, 1.0])
    assert judge(rises, slack, labelled, False) is Verdict.OPEN
    labelled[:, 1] = False
    assert judge(rises, slack, labelled, True) is Verdict.ACCEPT


def test_what_changes_few_pictures_is_not_judged_early() -> None:
    rises = np.zeros((40, 1))
    rises[3] = 0.5
    assert judge(rises, np.array([0.1]), _labels(rises), False) is Verdict.OPEN
    assert judge(rises, np.array([0.1]), _labels(rises), True) is Verdict.ACCEPT


def test_not_a_number_is_rejected() -> None:
    rises = np.zeros((20, 1))
    rises[3] = np.nan
    assert judge(rises, np.array([1.0]), _labels(rises), False) is Verdict.REJECT


def test_an_error_rate_of_the_test_is_small() -> None:
    """Trials truly at 1.5 times the slack are seldom let through early."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        rises = rng.normal(0.15, 0.3, (128, 1))
        for count in range(16, 129, 16):
            seen = rises[:count]
            verdict = judge(seen, np.array([0.1]), _labels(seen), count == 128)
            if verdict is not Verdict.OPEN:
                wrong += verdict is Verdict.ACCEPT
                break
    assert wrong <= 20


@given(count=st.integers(1, 60), data=st.data())
def test_the_farthest_passing_width_is_found_in_few_checks(count: int, data: st.DataObject) -> None:
    boundary = data.draw(st.integers(-1, count - 1))
    start = data.draw(st.integers(-3, count + 3))
    seen: list[int] = []

    def passes(index: int) -> bool:
        seen.append(index)
        return index <= boundary

    assert farthest_passing(count, start, passes) == boundary
    assert len(seen) == len(set(seen))
    assert len(seen) <= most_checks(count)
    if start == boundary and start >= 0:
        assert len(seen) <= 2


def test_a_boundary_near_enough_ends_the_search() -> None:
    checked: list[int] = []

    def passes(index: int) -> bool:
        checked.append(index)
        return index <= 37

    found = farthest_passing(100, 20, passes, lambda: 36, lambda below, above: below >= 30)
    assert (found, checked) == (36, [20, 36])


def test_between_two_checks_exponential_growth_is_hit() -> None:
    pressures = {index: 0.1 * 1.3**index for index in range(20)}  # 0.85 at 8.2, 1 at 8.8
    assert between(2, 14, pressures) == 8
    assert between(2, 3, pressures | {3: 2.0}) in (2, 3)
    assert between(0, 9, {0: -5.0, 9: 1.0}) <= 9  # a rise below 0, and one just over the slack
