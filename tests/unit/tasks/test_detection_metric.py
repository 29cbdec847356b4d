"""Average precision against worked cases, an independent reference, and its own invariants."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.detection import (
    AveragePrecision,
    Detections,
    average_precision,
    match_to_labels,
)

Image = tuple[list[tuple[tuple[float, ...], float]], list[tuple[float, ...]]]


def faces_of(boxes: list[tuple[float, ...]]) -> Faces:
    count = len(boxes)
    return Faces(
        np.array(boxes, np.float32).reshape(count, 4),
        np.full((count, 5, 2), np.nan, np.float32),
        np.full((count, 3), np.nan, np.float32),
    )


def detections_of(found: list[tuple[tuple[float, ...], float]]) -> Detections:
    found = sorted(found, key=lambda item: -item[1])
    return Detections(
        np.array([box for box, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score in found], np.float32),
        np.arange(len(found)),
    )


def measure(images: list[Image]) -> dict[str, float | None]:
    metric = AveragePrecision("detection")
    for found, labelled in images:
        sample = Sample("x", np.zeros((1, 1, 3), np.uint8), {"faces": faces_of(labelled)})
        metric.update({"detection": detections_of(found)}, sample)
    return dict(metric.result().values)


def square(x: float, y: float, side: float = 30) -> tuple[float, float, float, float]:
    return (x, y, x + side, y + side)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> Fraction:
    """Exact IoU by rational arithmetic: the reference shares no code with the product."""
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2 = (Fraction(float(np.float32(v))) for v in (*a, *b))
    inter = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    return inter / union if union else Fraction(0)


def reference(images: list[Image], least: float = 0.0) -> float | None:
    """AP over faces of at least this size: sweep every threshold, integrate the best precision."""
    total = sum(
        ((b[2] - b[0]) * (b[3] - b[1])) ** 0.5 >= least for _, boxes in images for b in boxes
    )
    if total == 0:
        return None
    judged: list[tuple[float, bool]] = []
    for found, boxes in images:
        seen: set[int] = set()
        for box, score in sorted(found, key=lambda item: -item[1]):
            overlaps = [overlap(box, other) for other in boxes]
            best = max(range(len(boxes)), key=lambda i: overlaps[i], default=None)
            if best is None or overlaps[best] < Fraction(1, 2):
                judged.append((float(np.float32(score)), False))
                continue
            b = boxes[best]
            if ((b[2] - b[0]) * (b[3] - b[1])) ** 0.5 >= least:
                judged.append((float(np.float32(score)), best not in seen))
            seen.add(best)
    curve = []
    for threshold in sorted({score for score, _ in judged}, reverse=True):
        hits = sum(hit for score, hit in judged if score >= threshold)
        shown = sum(score >= threshold for score, _ in judged)
        curve.append((hits / total, hits / shown))
    area, reached = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - reached) * max(p for r, p in curve if r >= recall)
        reached = recall
    return area


def test_all_found_and_nothing_else_is_one() -> None:
    image: Image = (
        [(square(0, 0), 0.9), (square(50, 50), 0.8)],
        [square(0, 0), square(50, 50)],
    )
    assert measure([image]) == {"ap": 1.0, "ap_20px": 1.0}


def test_nothing_found_is_zero_and_nothing_to_find_is_none() -> None:
    assert measure([([], [square(0, 0)])]) == {"ap": 0.0, "ap_20px": 0.0}
    result = AveragePrecision("detection").result()
    assert result.values == {"ap": None, "ap_20px": None}
    assert result.note and result.count == 0
    assert measure([([(square(0, 0), 0.9)], [])]) == {"ap": None, "ap_20px": None}


def test_a_worked_curve() -> None:
    """Hit, false alarm, hit of 3 faces: 1/3 * 1 + 1/3 * 2/3 + nothing for the missed third."""
    labelled = [square(0, 0), square(100, 0), square(0, 100)]
    found = [(square(0, 0), 0.9), (square(300, 300), 0.8), (square(100, 0), 0.7)]
    assert measure([(found, labelled)])["ap"] == pytest.approx(1 / 3 + 2 / 9)


def test_the_envelope_lifts_an_early_false_alarm() -> None:
    """False alarm first, then two hits: precision 1/2 then 2/3, the envelope counts 2/3 twice."""
    labelled = [square(0, 0), square(100, 0)]
    found = [(square(300, 300), 0.9), (square(0, 0), 0.8), (square(100, 0), 0.7)]
    assert measure([(found, labelled)])["ap"] == pytest.approx(2 / 3)


def test_a_repeat_is_a_false_alarm() -> None:
    labelled = [square(0, 0), square(100, 0)]
    found = [(square(0, 0), 0.9), (square(1, 0), 0.8), (square(100, 0), 0.7)]
    assert measure([(found, labelled)])["ap"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_overlap_of_one_half_counts_and_less_does_not() -> None:
    labelled = [(0.0, 0.0, 40.0, 30.0)]
    assert measure([([((0.0, 0.0, 20.0, 30.0), 0.9)], labelled)])["ap"] == 1.0
    assert measure([([((0.0, 0.0, 19.9, 30.0), 0.9)], labelled)])["ap"] == 0.0


def test_small_faces_count_neither_way_in_the_second_figure() -> None:
    labelled = [square(0, 0), square(100, 0, 10)]
    small_hit_and_repeat = [
        (square(100, 0, 10), 0.95),
        (square(100, 0, 10), 0.94),
        (square(0, 0), 0.9),
    ]
    values = measure([(small_hit_and_repeat, labelled)])
    assert values["ap_20px"] == 1.0
    assert values["ap"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    values = measure([([(square(100, 0, 10), 0.9)], [square(100, 0, 10)])])
    assert values == {"ap": 1.0, "ap_20px": None}


def test_a_face_of_exactly_twenty_pixels_is_not_small() -> None:
    assert measure([([], [square(0, 0, 20)])])["ap_20px"] == 0.0
    assert measure([([], [square(0, 0, 19.9)])])["ap_20px"] is None


def test_a_box_that_is_no_number_finds_nothing() -> None:
    broken = (float("nan"),) * 4
    assert measure([([(broken, 0.9)], [square(0, 0)])])["ap"] == 0.0


def test_a_sample_without_face_labels_is_skipped() -> None:
    metric = AveragePrecision("detection")
    sample = Sample("x", np.zeros((1, 1, 3), np.uint8), {"depth": np.ones((1, 1), np.float32)})
    metric.update({"detection": detections_of([(square(0, 0), 0.9)])}, sample)
    assert metric.result().values["ap"] is None


# Coordinates on a coarse grid and few distinct scores: overlaps of exactly one half, ties of
# scores, repeats and ambiguous best faces all occur often.
box_strategy = st.builds(
    lambda x, y, w, h: (x, y, x + w, y + h),
    st.integers(0, 6).map(lambda v: v * 6.0),
    st.integers(0, 6).map(lambda v: v * 6.0),
    st.sampled_from([12.0, 18.0, 24.0, 36.0]),
    st.sampled_from([12.0, 18.0, 24.0, 36.0]),
)
score_strategy = st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9])
# Scores inside one picture differ: which of two equal ones finds the face is a choice.
image_strategy = st.tuples(
    st.lists(st.tuples(box_strategy, score_strategy), max_size=5, unique_by=lambda item: item[1]),
    st.lists(box_strategy, max_size=4),
)
images_strategy = st.lists(image_strategy, min_size=1, max_size=4)


@given(images_strategy)
def test_agrees_with_an_independent_reference(images: list[Any]) -> None:
    values = measure(images)
    for key, least in (("ap", 0.0), ("ap_20px", 20.0)):
        wanted = reference(images, least)
        assert values[key] == (None if wanted is None else pytest.approx(wanted, abs=1e-6)), key


@given(images_strategy, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(images: list[Any], shuffle: Any) -> None:
    shuffled = list(images)
    shuffle.shuffle(shuffled)
    assert measure(shuffled) == pytest.approx(measure(images))


@given(images_strategy, score_strategy)
def test_a_false_alarm_never_helps(images: list[Any], score: float) -> None:
    before = measure(images)
    (found, boxes), *rest = images
    after = measure([([*found, (square(900, 900), score)], boxes), *rest])
    for key, value in before.items():
        if value is not None:
            assert 0 <= after[key] <= value + 1e-9 <= 1 + 1e-6


@given(images_strategy)
def test_finding_one_more_face_last_never_hurts(images: list[Any]) -> None:
    before = measure(images)
    new = square(2000, 2000, 40)
    missed = measure([*images, ([], [new])])
    found = measure([*images, ([(new, 0.05)], [new])])
    assert missed["ap"] <= found["ap"] + 1e-9
    if before["ap"] is not None:
        assert missed["ap"] <= before["ap"] + 1e-9


@given(
    st.lists(st.tuples(score_strategy, st.booleans()), max_size=12),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_area_is_bounded_and_blind_to_order(
    judged: list[tuple[float, bool]], missed: int, shuffle: Any
) -> None:
    def area(items: list[tuple[float, bool]]) -> float:
        scores = np.array([s for s, _ in items], np.float32)
        hits = np.array([h for _, h in items], bool)
        return average_precision(scores, hits, max(int(hits.sum()) + missed, 1))

    before = area(judged)
    assert 0 <= before <= 1 + 1e-9
    mixed = list(judged)
    shuffle.shuffle(mixed)
    assert area(mixed) == pytest.approx(before)


def test_each_face_is_found_by_at_most_one_detection_and_the_reverse() -> None:
    faces = faces_of([square(0, 0), square(10, 0), square(200, 0)])
    found = detections_of(
        [(square(1, 0), 0.9), (square(0, 0), 0.8), (square(200, 0), 0.3), (square(9, 0), 0.7)]
    )
    # The two first overlap face 0 most; the better-scored one is its finder. 0.3 is below 0.4.
    np.testing.assert_array_equal(match_to_labels(found, faces), [0, 2, -1])
    np.testing.assert_array_equal(match_to_labels(found, faces, min_score=0.2), [0, 2, 3])
    assert match_to_labels(detections_of([]), faces).tolist() == [-1, -1, -1]
    assert len(match_to_labels(found, Faces.empty())) == 0
