"""Timings in, figures and verdicts out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.errors import InputRefused
from edgemtl.measure.statistics import (
    FEWEST_FOR_DRIFT,
    Summary,
    drift,
    median_interval,
    ratio_of_medians,
    summarise,
)


def test_summary_of_known_series() -> None:
    found = summarise(np.arange(1, 102, dtype=float))  # 1..101
    assert (found.count, found.p50_ms, found.p90_ms, found.p99_ms) == (101, 51, 91, 100)
    assert (found.min_ms, found.max_ms, found.mean_ms) == (1, 101, 51)
    assert found.std_ms == pytest.approx(np.std(np.arange(1, 102), ddof=1))
    assert found.spread == pytest.approx(1.4826 * 25 / 51)  # MAD of 1..101 is 25


def test_no_outlier_is_dropped() -> None:
    found = summarise([1.0] * 99 + [1000.0])
    assert found.max_ms == 1000
    assert found.mean_ms == pytest.approx(10.99)
    assert found.p50_ms == 1
    assert found.spread == 0


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200))
def test_percentiles_are_ordered(samples: list[float]) -> None:
    found = summarise(samples)
    slack = 1e-9 * found.max_ms
    assert found.min_ms <= found.p50_ms + slack
    assert found.p50_ms <= found.p90_ms + slack
    assert found.p90_ms <= found.p99_ms + slack
    assert found.p99_ms <= found.max_ms + slack
    assert Summary.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [-1.0], [float("inf")]])
def test_series_that_are_none(bad: list[float]) -> None:
    with pytest.raises(ValueError):
        summarise(bad)


def test_summary_from_broken_data() -> None:
    with pytest.raises(InputRefused):
        Summary.from_dict({"count": 3})


def _noise(count: int, sigma: float = 0.03, seed: int = 1) -> np.ndarray:
    return 10 * (1 + sigma * np.random.default_rng(seed).standard_normal(count))


def test_steady_noise_is_stable() -> None:
    for seed in range(20):
        found = drift(_noise(200, seed=seed))
        assert found.stable
        assert found.reason == ""
        assert abs(found.trend) < 0.05


def test_steady_but_wild_noise_is_stable_when_the_parts_agree_within_it() -> None:
    # 60 % noise with 5 samples per part: medians of parts differ by more than the limit by chance
    samples = np.abs(_noise(40, sigma=0.6, seed=3))
    found = drift(samples)
    assert found.range > 0.2
    assert found.stable


def test_throttling_is_found() -> None:
    ramp = _noise(200) * np.linspace(1.0, 1.5, 200)
    found = drift(ramp)
    assert not found.stable
    assert found.trend == pytest.approx(0.5 / 1.25 * 7 / 8, rel=0.15)
    assert "slower" in found.reason


def test_step_in_the_middle_is_found_in_either_direction() -> None:
    up = np.concatenate([_noise(100), _noise(100, seed=2) * 1.4])
    assert not drift(up).stable
    assert not drift(up[::-1]).stable
    assert "faster" in drift(up[::-1]).reason


def test_small_shift_on_a_quiet_machine_is_stable() -> None:
    steps = np.concatenate([_noise(100, sigma=1e-4), _noise(100, sigma=1e-4) * 1.05])
    assert drift(steps).stable


def test_single_spikes_do_not_make_a_run_unstable() -> None:
    samples = _noise(200)
    samples[::25] *= 20
    assert drift(samples).stable


def test_too_few_samples_say_so() -> None:
    found = drift(_noise(FEWEST_FOR_DRIFT - 1))
    assert not found.stable
    assert "too few" in found.reason
    assert drift(_noise(FEWEST_FOR_DRIFT)).stable


def _blocks(centre: float, pairs: int, seed: int, mood: np.ndarray) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [centre * mood[i] * (1 + 0.05 * generator.standard_normal(20)) for i in range(pairs)]


def test_ratio_cancels_a_drift_that_both_share() -> None:
    mood = np.linspace(1, 3, 30)
    found = ratio_of_medians(_blocks(20, 30, 1, mood), _blocks(10, 30, 2, mood), seed=0)
    assert found.low < 2 < found.high
    assert found.low <= found.value <= found.high
    assert found.stable


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(60):
        mood = np.exp(0.1 * np.random.default_rng(1000 + trial).standard_normal(20))
        top = _blocks(13, 20, 2 * trial, mood)
        bottom = _blocks(10, 20, 2 * trial + 1, mood)
        found = ratio_of_medians(top, bottom, seed=trial, resamples=300)
        covered += found.low <= 1.3 <= found.high
    assert covered >= 50  # 57 expected


def test_ratio_is_seeded() -> None:
    mood = np.ones(10)
    top, bottom = _blocks(3, 10, 1, mood), _blocks(2, 10, 2, mood)
    assert ratio_of_medians(top, bottom, seed=5) == ratio_of_medians(top, bottom, seed=5)
    assert ratio_of_medians(top, bottom, seed=5) != ratio_of_medians(top, bottom, seed=6)


def test_wide_interval_concludes_nothing() -> None:
    generator = np.random.default_rng(0)
    wild = [np.full(5, v) for v in generator.uniform(1, 20, 6)]
    steady = [np.full(5, 10.0)] * 6
    found = ratio_of_medians(wild, steady, seed=0)
    assert not found.stable
    assert "too wide" in found.reason


def test_ratio_refuses_blocks_that_do_not_pair() -> None:
    with pytest.raises(ValueError):
        ratio_of_medians([[1.0]], [[1.0]], seed=0)
    with pytest.raises(ValueError):
        ratio_of_medians([[1.0], [1.0], [1.0]], [[1.0], [1.0]], seed=0)
    with pytest.raises(ValueError):
        ratio_of_medians([[1.0], [1.0]], [[0.0], [0.0]], seed=0)


def test_the_interval_of_a_median_holds_it_and_narrows_with_samples() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(10, 1, 40), rng.normal(10, 1, 4000)
    widths = []
    for values in (few, many):
        low, high = median_interval(values)
        assert low <= np.median(values) <= high
        widths.append(high - low)
    assert 0 < widths[1] < widths[0] < 2
    assert median_interval(many) == median_interval(many)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
