"""The table of pose errors by angle: which heads count where, and what was not found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from calibfaces.closeup import PITCH, SIDE, YAW, render_closeup
from pose_by_angle import rows_of


def test_each_head_counts_in_the_range_of_its_yaw_and_of_its_pitch() -> None:
    labels = np.array([[-45, 10, 0], [45, 10, 0], [70, 10, 0], [10, -45, 0]], np.float32)
    found = labels + np.array([[3, 0, 0], [0, 0, 6], [9, 9, 9], [np.nan] * 3], np.float32)
    yaw, pitch = rows_of("net", labels, found)
    assert yaw == [
        "net",
        "yaw",
        "1.0 (1 of 1)",
        "none found (0 of 0)",
        "none found (0 of 1)",
        "2.0 (1 of 1)",
    ]
    assert pitch[2:] == [
        "none found (0 of 1)",
        "none found (0 of 0)",
        "1.5 (2 of 2)",
        "none found (0 of 0)",
    ]


def test_a_close_up_is_one_large_head_and_the_same_from_the_same_seed() -> None:
    image, label = render_closeup(np.random.default_rng(3))
    again, _ = render_closeup(np.random.default_rng(3))
    assert image.shape == (SIDE, SIDE, 3)
    assert np.array_equal(image, again)
    assert np.sqrt(label.box[2] * label.box[3]) > 100
    assert abs(label.yaw) <= YAW
    assert abs(label.pitch) <= PITCH
