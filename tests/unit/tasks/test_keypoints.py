"""Key points: labels, heat maps and direct coordinates, PCK and OKS-AP by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.objects import Keypoints
from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import KeypointTask, build
from edgemtl.tasks.keypoints import FoundPoints, highest, peaks

POINTS = ("nose", "left", "right")
TASK = KeypointTask("person", POINTS, mirrored=[("left", "right")], sigmas=[0.5, 0.5, 0.5])
DIRECT = KeypointTask("person", POINTS, encoding="coordinates")
VIEW = View(2.0, 4.0, 0.0, (40, 60), (80, 128))
IMAGE = np.zeros((40, 60, 3), np.uint8)
LABEL = [[10, 20], [30, 20, 2], [30, 0, 0]]


def test_labels_in_every_form() -> None:
    known = TASK.known(LABEL)
    assert known.points[0, :2].tolist() == [[10, 20], [30, 20]]
    assert np.isnan(known.points[0, 2]).all() and known.sides.tolist() == [20]
    flat = TASK.known([10, 20, 1, 30, 20, 1, 0, 0, 0])
    assert np.array_equal(flat.points, known.points, equal_nan=True)
    assert TASK.known(known) is known
    assert TASK.known([None, None, [1, 2]]).points[0, 2].tolist() == [1, 2]


@pytest.mark.parametrize("label", [[[1, 2]], 5, "abc", [[1], [2], [3]], {}, [[1, "x"]] * 3])
def test_other_labels_are_refused(label: object) -> None:
    with pytest.raises(InputRefused, match="task 'person' is not 3 points"):
        TASK.known(label)


def test_points_move_with_the_image() -> None:
    moved = TASK.to_canvas(LABEL, VIEW)
    assert moved is not None
    assert moved.points[0, :2].tolist() == [[24, 40], [64, 40]] and moved.sides.tolist() == [40]
    turned = TASK.mirror(LABEL, 60)
    assert turned is not None and turned.points[0, [0, 2]].tolist() == [[50, 20], [30, 20]]
    assert np.isnan(turned.points[0, 1]).all()
    part = TASK.crop(LABEL, Part((40, 60), 10, 5, 20, 20))
    assert part.points[0, 0].tolist() == [5, 10] and np.isnan(part.points[0, 1:]).all()
    assert KeypointTask("a", POINTS).mirror(LABEL, 60) is None
    assert TASK.to_canvas(None, VIEW) is None


def test_targets_are_shares_of_the_canvas_of_the_largest_object() -> None:
    small = np.float32([[[1, 1], [2, 2], [3, 3]], [[64, 40], [32, 20], [np.nan, np.nan]]])
    both = Keypoints(small, np.float32([4, 100]), np.float32([2, 50]))
    found = TASK.collate([both, None], (80, 128))
    assert found[0, :2].tolist() == [[0.5, 0.5], [0.25, 0.25]]
    assert found[0, 2].isnan().all() and found[1].isnan().all()


def test_a_peak_is_read_where_it_was_put() -> None:
    shares = torch.tensor([[0.3, 0.7], [0.05, 0.95]])
    maps = peaks(shares, (40, 64))
    assert maps.shape == (2, 40, 64)
    places, heights = highest(maps.numpy())
    assert np.abs(places - shares.numpy()).max() < 0.5 / 40 and (heights > 0.9).all()
    two = np.zeros((1, 2, 4), np.float32)
    two[0, 1, 2], two[0, 1, 3] = 1.0, 0.5
    places, heights = highest(two)  # the pixel's centre, a quarter towards right and up
    assert places.tolist() == [[2.75 / 4, 1.5 / 2]] or places[0, 0] == 2.75 / 4
    assert heights.tolist() == [1.0]


def test_a_map_that_is_not_finite_answers_nowhere() -> None:
    broken = np.zeros((1, 2, 2), np.float32)
    broken[0, 0, 0] = np.nan
    places, heights = highest(broken)
    assert np.isnan(places).all() and heights.tolist() == [0]


def test_loss_of_heat_maps_is_relative_to_what_they_should_be() -> None:
    targets = TASK.collate([[[8, 8], [16, 16], None]], (32, 32))
    wanted = torch.zeros(1, 3, 16, 16)
    wanted[0, :2] = peaks(targets[0, :2], (16, 16))
    outputs = {"person.heatmaps": wanted}
    assert float(TASK.loss(outputs, targets)) == pytest.approx(0, abs=1e-7)
    assert float(TASK.loss({"person.heatmaps": wanted * 0}, targets)) == pytest.approx(1)
    wanted[0, 2] = 5  # nobody labelled that point
    assert float(TASK.loss({"person.heatmaps": wanted}, targets)) == pytest.approx(0, abs=1e-7)
    nothing = TASK.collate([None], (32, 32))
    assert float(TASK.loss(outputs, nothing)) == 0


def test_loss_of_coordinates_is_the_mean_error() -> None:
    targets = DIRECT.collate([[[8, 8], [16, 16], None]], (32, 32))
    outputs = {"person.coordinates": torch.tensor([[[0.25, 0.5], [0.5, 0.5], [9.0, 9.0]]])}
    assert float(DIRECT.loss(outputs, targets)) == pytest.approx(0.25 / 4)


def test_decoding_goes_back_to_the_image() -> None:
    shares = np.float32([[0.5, 0.5], [0, 0], [1, 1]])
    found = DIRECT.decode({"person.coordinates": shares}, VIEW, {})
    assert found.points.tolist() == [[30, 20], [-2, 0], [62, 40]]
    assert DIRECT.describe({"person": found})["nose"] == {"x": 30.0, "y": 20.0, "score": 1.0}
    assert (DIRECT.draw(IMAGE.copy(), {"person": found}) != IMAGE).any()


def measured(task: KeypointTask, *pairs: tuple[FoundPoints, object]):  # type: ignore[no-untyped-def]
    metric = task.new_metric()
    for found, label in pairs:
        metric.update({"person": found}, Sample("a", IMAGE, {"keypoints": label}))
    return metric.result()


def test_pck_and_oks_by_hand() -> None:
    label = Keypoints(
        np.float32([[[10, 10], [20, 10], [np.nan, np.nan]]]), np.float32([2.0]), np.float32([20.0])
    )
    right = FoundPoints(np.float32([[10, 10], [20, 10], [0, 0]]), np.float32([0.9, 0.9, 0.9]))
    # 4 px of a box of 20: just right at a share of 0.2; 5 px is not
    near = FoundPoints(np.float32([[10, 14], [20, 15], [0, 0]]), np.float32([0.5, 0.5, 0.5]))
    result = measured(TASK, (right, label), (near, label))
    assert result.count == 4 and result.values["pck"] == pytest.approx(3 / 4)
    assert result.classes == {"nose": 1.0, "left": 0.5, "right": None}
    # similarity of the second: (exp(-16 / 4) + exp(-25 / 4)) / 2 = 0.01; so one of two is found at
    # every threshold, and recalls up to 0.5 (51 of 101) have precision 1
    assert result.values["oks_ap"] == pytest.approx(51 / 101)


def test_a_broken_network_is_wrong_and_no_label_is_told() -> None:
    broken = FoundPoints(np.full((3, 2), np.nan, np.float32), np.zeros(3, np.float32))
    result = measured(TASK, (broken, LABEL))
    assert result.values == {"pck": 0.0, "oks_ap": 0.0}
    assert TASK.new_metric().result().note == "no picture has a label 'keypoints'"
    assert measured(TASK, (broken, [None, None, None])).count == 0


def test_options_and_shapes() -> None:
    again = build(TASK.spec())
    assert isinstance(again, KeypointTask) and again.spec() == TASK.spec()
    TASK.check_outputs({"person.heatmaps": (1, 3, 8, 8)}, (32, 32))
    DIRECT.check_outputs({"person.coordinates": (1, 3, 2)}, (32, 32))
    for task, shape in ((TASK, (1, 4, 8, 8)), (DIRECT, (1, 3, 3))):
        with pytest.raises(InputRefused, match="reads"):
            task.check_outputs({task.outputs[0]: shape}, (32, 32))
    for wrong in (
        {"encoding": "x"},
        {"mirrored": [("left", "eye")]},
        {"mirrored": [("left", "right"), ("left", "nose")]},
        {"sigmas": [1]},
        {"sigmas": [1, 0, 1]},
        {"pck": math.inf},
    ):
        with pytest.raises(ValueError, match="'"):
            KeypointTask("x", POINTS, **wrong)  # type: ignore[arg-type]
