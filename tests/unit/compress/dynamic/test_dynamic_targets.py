"""The masks that activations ask for: the published rule, its golden example and its gaps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.compress.dynamic.targets import target_mask
from edgemtl.errors import UsageError

#: the example of the paper's poster
GOLDEN = torch.tensor([[5.5, 7.9, 0.3, 8.6, 2.2, 3.1, 0.9]])


def test_the_golden_example_keeps_four_channels_that_hold_88_percent() -> None:
    mask = target_mask(GOLDEN, 0.95)
    assert mask.tolist() == [[True, True, False, True, False, True, False]]
    assert float(GOLDEN[mask].sum() / GOLDEN.sum()) == pytest.approx(0.881, abs=5e-4)


def test_covering_keeps_the_channel_that_crosses_the_threshold_too() -> None:
    mask = target_mask(GOLDEN, 0.95, "cover")
    assert mask.tolist() == [[True, True, False, True, True, True, False]]


def test_one_channel_above_the_threshold_leaves_the_minimum() -> None:
    mass = torch.tensor([[98.0, 1.0, 1.0, 0.0]])
    assert target_mask(mass, 0.9).sum() == 1
    assert target_mask(mass, 0.9, minimum=3).tolist() == [[True, True, True, False]]


def test_a_image_on_which_all_is_dead_is_no_nan() -> None:
    mass = torch.zeros(2, 5)
    for rule in ("paper", "cover"):
        for threshold in (0.5, 1.0):
            mask = target_mask(mass, threshold, rule, minimum=2)  # type: ignore[arg-type]
            assert mask.sum(dim=1).tolist() in ([2, 2], [5, 5])


def test_a_threshold_of_one_drops_dead_channels_only() -> None:
    assert target_mask(torch.tensor([[3.0, 0.0, 1e-3]]), 1.0).tolist() == [[True, False, True]]


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="threshold"):
        target_mask(GOLDEN, threshold)


@given(
    st.lists(st.floats(0, 1e3, width=32), min_size=2, max_size=20),
    st.floats(0.05, 1.0),
    st.integers(1, 4),
)
def test_masks_grow_with_the_threshold_and_hold_the_strongest(
    values: list[float], threshold: float, minimum: int
) -> None:
    mass = torch.tensor([values])
    for rule in ("paper", "cover"):
        mask = target_mask(mass, threshold, rule, minimum)[0]  # type: ignore[arg-type]
        assert mask.sum() >= min(minimum, len(values))
        if not mask.all():
            assert mass[0][mask].min() >= mass[0][~mask].max()
        lower = target_mask(mass, threshold / 2, rule, minimum)[0]  # type: ignore[arg-type]
        assert not (lower & ~mask).any()
