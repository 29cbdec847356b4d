"""Thinning keeps what is connected and leaves lines."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgemtl.tasks.thinning import thinned


def test_a_thick_bar_becomes_a_line() -> None:
    mask = np.zeros((20, 40), np.bool_)
    mask[8:13, 5:35] = True
    thin = thinned(mask)
    assert (thin <= mask).all()
    assert (thin[:, 10:30].sum(axis=0) == 1).all() and thin[10, 10:30].all()


def test_a_line_stays() -> None:
    mask = np.zeros((9, 30), np.bool_)
    mask[4, 3:27] = True
    assert thinned(mask).sum() >= 22
    assert not thinned(np.zeros((5, 5), np.bool_)).any()


@pytest.mark.parametrize("seed", range(5))
def test_pieces_and_holes_stay_as_many_and_twice_is_once(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(48, 64)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 3) > 0
    # two by two pixels alone may vanish in this method, so pieces are large here
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    thin = thinned(mask)
    pieces = [cv2.connectedComponents(m.astype(np.uint8), connectivity=8)[0] for m in (mask, thin)]
    holes = [
        cv2.connectedComponents(
            np.pad(~m, 1, constant_values=True).astype(np.uint8), connectivity=4
        )[0]
        for m in (mask, thin)
    ]
    assert pieces[0] == pieces[1] and holes[0] == holes[1]
    assert np.array_equal(thinned(thin), thin)
    assert thin.sum() < 0.5 * mask.sum()
