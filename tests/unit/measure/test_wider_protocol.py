"""The WIDER FACE protocol, on tiny cases worked out by hand and on the real ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from support.shared import data_folder

from edgemtl.errors import InputRefused
from edgemtl.measure.wider_protocol import (
    SUBSETS,
    WiderImage,
    average_precisions,
    inclusive_iou,
    load_ground_truth,
    wider_ap,
)

Boxes = list[tuple[float, float, float, float]]


def image(name: str, boxes: Boxes, counted: list[bool]) -> WiderImage:
    """The same faces count in all three subsets."""
    mask = np.array(counted, bool)
    table = np.array(boxes, float).reshape(-1, 4)
    return WiderImage(name, table, dict.fromkeys(SUBSETS, mask))


def rows(*found: tuple[float, float, float, float, float]) -> np.ndarray:
    return np.array(found, float).reshape(-1, 5)


A, B, C = (0, 0, 20, 20), (100, 0, 20, 20), (200, 0, 20, 20)
NOWHERE = (500, 500, 20, 20)


def ap(images: list[WiderImage], predictions: dict[str, np.ndarray]) -> float:
    values = average_precisions(images, predictions)
    assert len({values[subset] for subset in SUBSETS}) == 1
    value = values["easy"]
    assert value is not None
    return value


def test_right_wrong_right() -> None:
    images = [image("e/a", [A, B, C], [True, True, True])]
    found = {"e/a": rows((*A, 0.9), (*NOWHERE, 0.8), (*B, 0.7))}
    # recall 1/3 at precision 1, recall 2/3 at precision 2/3, the last face is never found
    assert ap(images, found) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)


def test_face_that_does_not_count_is_neither_right_nor_wrong() -> None:
    images = [image("e/a", [A, B], [True, False])]
    assert ap(images, {"e/a": rows((*B, 0.9), (*B, 0.8), (*A, 0.5))}) == pytest.approx(1)


def test_second_hit_of_a_counted_face_is_wrong() -> None:
    images = [image("e/a", [A, B], [True, True])]
    found = {"e/a": rows((*A, 0.9), (*A, 0.8), (*B, 0.7))}
    assert ap(images, found) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_image_without_faces_adds_no_false_alarm() -> None:
    images = [image("e/a", [A], [True]), image("e/empty", [], [])]
    alarms = rows((*NOWHERE, 0.99), (*A, 0.98))
    assert ap(images, {"e/a": rows((*A, 0.5)), "e/empty": alarms}) == pytest.approx(1)


def test_scores_are_stretched_over_the_whole_set() -> None:
    # Raw scores between 0.30002 and 0.30001 would all fall between two of the 1000 thresholds.
    images = [image("e/a", [A], [True]), image("e/b", [A, B], [True, True])]
    found = {
        "e/a": rows((*A, 0.30002)),
        "e/b": rows((*NOWHERE, 0.300015), (*A, 0.30001)),
    }
    assert ap(images, found) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)


def test_equal_scores_are_one_threshold() -> None:
    images = [image("e/a", [A, B], [True, True])]
    found = {"e/a": rows((*A, 0.4), (*NOWHERE, 0.4), (*B, 0.4))}
    assert ap(images, found) == pytest.approx(2 / 3)


def test_nothing_predicted_and_nothing_to_find() -> None:
    images = [image("e/a", [A], [True])]
    assert ap(images, {}) == 0
    assert ap(images, {"e/a": np.zeros((0, 5))}) == 0
    empty = [image("e/a", [A], [False])]
    assert average_precisions(empty, {"e/a": rows((*A, 1))}) == dict.fromkeys(SUBSETS)


def test_pixels_are_counted_inclusively() -> None:
    # corners 0..9 and 5..14: 5 of 15 columns shared, not 4 of 14 as by plain geometry
    a, b = np.array([[0, 0, 9, 9]], float), np.array([[5, 0, 9, 9]], float)
    assert inclusive_iou(a, b)[0, 0] == pytest.approx(5 / 15)
    a, b = np.array([[0, 0, 4, 4]], float), np.array([[0, 2, 4, 4]], float)
    assert inclusive_iou(a, b)[0, 0] == pytest.approx(15 / 35)
    assert inclusive_iou(a, np.array([[4, 4, 1, 1]], float))[0, 0] == pytest.approx(1 / 28)
    assert inclusive_iou(a, np.array([[5, 5, 1, 1]], float))[0, 0] == 0


def test_suffix_of_a_image_is_dropped_but_no_other_dot() -> None:
    images = [image("e/a.b", [A], [True])]
    assert ap(images, {"e/a.b.jpg": rows((*A, 1))}) == 1
    assert ap(images, {"e/a.b": rows((*A, 1))}) == 1


@pytest.mark.parametrize("table", [np.zeros((2, 4)), np.full((1, 5), np.nan), np.zeros(5)])
def test_predictions_of_the_wrong_shape(table: np.ndarray) -> None:
    with pytest.raises(InputRefused, match="finite x y w h score"):
        average_precisions([image("e/a", [A], [True])], {"e/a": table})


def test_prediction_for_an_unknown_image() -> None:
    with pytest.raises(InputRefused, match="does not have"):
        average_precisions([image("e/a", [A], [True])], {"x/y": rows((*A, 1))})


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no such ground-truth file"):
        wider_ap(tmp_path, {})
    (tmp_path / "wider_face_val.mat").write_bytes(b"not a mat file")
    with pytest.raises(InputRefused, match="not a readable MATLAB file"):
        wider_ap(tmp_path, {})
    savemat(tmp_path / "wider_face_val.mat", {"event_list": np.zeros(1)})
    with pytest.raises(InputRefused, match="holds no 'face_bbx_list'"):
        wider_ap(tmp_path, {})


@pytest.fixture(scope="module")
def truth() -> list[WiderImage]:
    return load_ground_truth(data_folder("wider_face_ground_truth"))


def sides(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt(np.prod(np.clip(boxes[:, 2:], 0, None), axis=1))


def scored(truth: list[WiderImage], smallest: float = 0, shift: float = 0) -> dict[str, np.ndarray]:
    """The ground truth as detections with random scores."""
    generator = np.random.default_rng(7)
    found = {}
    for entry in truth:
        boxes = entry.boxes[sides(entry.boxes) >= smallest].copy()
        boxes[:, 0] += shift
        found[entry.name] = np.column_stack([boxes, generator.uniform(0.1, 0.9, len(boxes))])
    return found


def test_real_ground_truth_has_the_published_counts(truth: list[WiderImage]) -> None:
    assert len(truth) == 3226
    assert sum(len(entry.boxes) for entry in truth) == 39708
    counts = {s: sum(int(entry.counted[s].sum()) for entry in truth) for s in SUBSETS}
    assert counts == {"easy": 7211, "medium": 13319, "hard": 31958}
    # each subset contains the easier ones
    for entry in truth:
        assert not (entry.counted["easy"] & ~entry.counted["medium"]).any()
        assert not (entry.counted["medium"] & ~entry.counted["hard"]).any()


def test_ground_truth_against_itself(truth: list[WiderImage]) -> None:
    values = average_precisions(truth, scored(truth))
    for subset in SUBSETS:
        value = values[subset]
        assert value is not None and 0.999 < value <= 1


def test_missing_small_faces_hurt_hard_most(truth: list[WiderImage]) -> None:
    values = average_precisions(truth, scored(truth, smallest=25))
    easy, medium, hard = (values[subset] for subset in SUBSETS)
    assert easy is not None and medium is not None and hard is not None
    assert easy > medium > hard
    share = {
        s: sum(int((sides(e.boxes[e.counted[s]]) >= 25).sum()) for e in truth)
        / sum(int(e.counted[s].sum()) for e in truth)
        for s in SUBSETS
    }
    # nothing is ever found wrongly, so the area is the share of faces that were detected
    for subset in SUBSETS:
        assert values[subset] == pytest.approx(share[subset], abs=2e-3)


def test_shifted_boxes_find_nothing(truth: list[WiderImage]) -> None:
    values = average_precisions(truth, scored(truth, shift=1e5))
    assert values == dict.fromkeys(SUBSETS, 0.0)
