"""A layer's time by the widths of both sides, from few measured times."""

from __future__ import annotations

import numpy as np
import pytest

from edgemtl.compress.latency.curves import fitted

BLOCK = 8


def blocks_only(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """ms of a layer that computes in blocks of eight channels on both sides."""
    return 0.2 + 0.01 * np.ceil(inputs / BLOCK) * np.ceil(outputs / BLOCK)


@pytest.fixture(scope="module")
def widths() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(1, 128, 40).astype(float), draw.integers(1, 256, 40).astype(float)


def test_steps_at_blocks_are_found(widths: tuple[np.ndarray, np.ndarray]) -> None:
    curve = fitted(*widths, blocks_only(*widths), BLOCK)
    inputs, outputs = np.array([64.0, 57.0, 56.0]), np.array([100.0, 97.0, 96.0])
    found = curve.at(inputs, outputs, BLOCK)
    assert found == pytest.approx(blocks_only(inputs, outputs), rel=1e-3)
    assert found[0] == pytest.approx(found[1]) and found[2] < found[1]


def test_noise_never_makes_a_narrower_layer_cost_more(
    widths: tuple[np.ndarray, np.ndarray],
) -> None:
    draw = np.random.default_rng(1)
    noisy = blocks_only(*widths) * draw.uniform(0.7, 1.4, 40)
    noisy[3] *= 10  # the machine did something else
    curve = fitted(*widths, noisy, BLOCK)
    grid = np.arange(1.0, 256.0)
    assert (np.diff(curve.at(grid, np.full_like(grid, 64.0), BLOCK)) >= 0).all()
    assert (np.diff(curve.at(np.full_like(grid, 64.0), grid, BLOCK)) >= 0).all()
    true = blocks_only(np.array([96.0]), np.array([192.0]))
    assert curve.at(np.array([96.0]), np.array([192.0]), BLOCK) == pytest.approx(true, rel=0.15)
