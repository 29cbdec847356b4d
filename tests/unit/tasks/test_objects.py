"""Objects of many classes: labels, assignment, loss, decoding and mAP, for every kind of head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgemtl.data.objects import Objects
from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import ObjectDetection, build
from edgemtl.tasks.object_assignment import assign, giou, pair_iou
from edgemtl.tasks.object_metric import FoundObjects

SIZE = (64, 96)
VIEW = View(1.0, 0.0, 0.0, SIZE, SIZE)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
CLASSES = ("cup", "car", "cat")
ANCHORS = [[[12, 12]], [[32, 24], [24, 40]]]
HEADS: dict[str, dict[str, Any]] = {
    "anchors, softmax": {
        "code": "offsets", "strides": [8, 16], "anchors": ANCHORS,
        "scores": "softmax", "background": "first",
    },
    "anchors, sigmoid": {"code": "offsets", "strides": [8, 16], "anchors": ANCHORS},
    "cells, sides": {"code": "sides", "strides": [8, 16]},
    "cells, bins": {"code": "bins", "strides": [8, 16], "bins": 8},
    "cells, objectness": {"code": "cell", "strides": [8, 16], "objectness": True},
    "queries": {
        "code": "shares", "queries": 12, "scores": "softmax", "background": "last", "nms": None,
    },
}  # fmt: skip
LABEL = [
    {"class": "cup", "box": [10, 10, 14, 12]},
    {"class": "cat", "box": [40, 16, 30, 36]},
    {"class": 1, "box": [70, 4, 20, 40]},
    {"class": "dog", "box": [1, 1, 5, 5]},
]


def task(name: str) -> ObjectDetection:
    return ObjectDetection("things", CLASSES, HEADS[name])


PLAIN = task("cells, sides")


@pytest.mark.parametrize("name", HEADS)
def test_outputs_trained_to_the_labels_find_them(name: str) -> None:
    """Loss, assignment and decoding mean the same thing, whatever the head."""
    own = task(name)
    rows = len(own.head.places(SIZE))
    widths = (own.head.columns(len(CLASSES)), own.head.numbers, 1)
    generator = torch.Generator().manual_seed(1)
    outputs = {
        output: (torch.randn(1, rows, width, generator=generator) * 0.1).requires_grad_()
        for output, width in zip(own.outputs, widths, strict=False)
    }
    own.check_outputs({name: tuple(value.shape) for name, value in outputs.items()}, SIZE)
    with torch.no_grad():
        if own.head.code in ("sides", "shares"):
            outputs["things.boxes"] += 0.5
    targets = own.collate([LABEL], SIZE)
    optimizer = torch.optim.Adam(outputs.values(), lr=0.1)
    first = None
    for _ in range(120):
        optimizer.zero_grad()
        loss = own.loss(outputs, targets)
        first = first or float(loss.detach())
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first
    arrays = {output: value.detach()[0].numpy() for output, value in outputs.items()}
    decoded = {"things": own.decode(arrays, VIEW, {})}
    metric = own.new_metric()
    metric.update(decoded, Sample("a", IMAGE, {"objects": LABEL}))
    result = metric.result()
    assert result.count == 3  # nobody looks for dogs
    assert result.values["map50"] == pytest.approx(1), result
    assert (own.draw(IMAGE.copy(), decoded) != IMAGE).any()
    shown = own.describe(decoded)
    assert {row["class"] for row in shown} <= set(CLASSES)
    same = {output: value.detach() for output, value in outputs.items()}
    assert float(own.distil(same, same, targets)) == pytest.approx(0, abs=1e-6)
    for values, weight in own.read(same).values():
        assert (weight >= 0).all() and torch.broadcast_shapes(values.shape, weight.shape)


def test_labels_move_with_the_image() -> None:
    _, numbers = PLAIN.known(LABEL)
    assert numbers.tolist() == [0, 2, 1, -1]
    moved = PLAIN.to_canvas(LABEL, View(2.0, 4.0, 1.0, SIZE, (128, 200)))
    assert moved is not None and moved.boxes[0].tolist() == [24, 21, 52, 45]
    turned = PLAIN.mirror(LABEL, 96)
    assert turned is not None and turned.boxes[0].tolist() == [72, 10, 86, 22]
    part = PLAIN.crop(LABEL, Part(SIZE, 10, 20, 40, 40))
    assert part.classes == ("cat",) and part.boxes.tolist() == [[20, 6, 40, 40]]
    assert ObjectDetection("a", CLASSES, HEADS["queries"], mirror=False).mirror(LABEL, 96) is None


@pytest.mark.parametrize(
    "label", [5, [5], [{"class": "cup"}], [{"class": "cup", "box": [1]}], ["x"]]
)
def test_other_labels_are_refused(label: object) -> None:
    with pytest.raises(InputRefused, match="no list of objects"):
        PLAIN.known(label)


def test_crowds_and_boxes_without_area_teach_nothing() -> None:
    boxes = np.float32([[0, 0, 9, 9], [5, 5, 5, 9], [1, 1, 4, 4]])
    targets = PLAIN.collate(
        [Objects(boxes, ("cup",) * 3, np.array([True, False, False])), None], SIZE
    )
    assert targets.boxes[0] is not None and targets.boxes[0].tolist() == [[1, 1, 4, 4]]
    assert targets.boxes[1] is None


def test_a_image_that_nobody_labelled_does_not_count_and_an_empty_one_does() -> None:
    rows = len(PLAIN.head.places(SIZE))
    outputs = {"things.scores": torch.ones(1, rows, 3), "things.boxes": torch.ones(1, rows, 4)}
    assert float(PLAIN.loss(outputs, PLAIN.collate([None], SIZE))) == 0
    assert float(PLAIN.loss(outputs, PLAIN.collate([[]], SIZE))) > 1


def test_overlaps_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10], [20.0, 0, 30, 10]])
    assert pair_iou(a, b)[0].tolist() == pytest.approx([1 / 3, 0])
    assert giou(a[0], b[0]).item() == pytest.approx(1 / 3)  # the box around has nothing else
    assert giou(a[0], b[1]).item() == pytest.approx(-1 / 3)


def test_cells_near_the_centre_in_the_stride_that_suits_answer() -> None:
    places = PLAIN.head.places(SIZE)
    wanted = torch.tensor([[10.0, 10, 42, 42], [70, 5, 72, 7]])  # 32 and 2 pixels
    nothing = torch.zeros(len(places), 4), torch.zeros(len(places), 3)
    rows, which = assign(PLAIN.head, *nothing, wanted, torch.tensor([0, 1]), SIZE)
    large = places[rows[which == 0]]
    assert len(large) and (large[:, 4] == 8).all()
    assert ((large[:, :2] - 26).abs() < 12).all()
    small = places[rows[which == 1]]
    assert small.tolist() == [[68, 4, 8, 8, 8]]  # it holds no centre of a cell


def test_map_by_hand() -> None:
    metric = PLAIN.new_metric()
    boxes = np.float32([[10, 10, 24, 22], [10, 10, 24, 22], [40, 16, 70, 43]])
    found = FoundObjects(boxes, np.float32([0.9, 0.8, 0.7]), np.array([0, 0, 2]))
    metric.update({"things": found}, Sample("a", IMAGE, {"objects": LABEL}))
    result = metric.result()
    # the cup is found, and found again after recall 1 is reached; the cat by 27 / 36 of its box, so
    # at six of ten thresholds; the car is not found
    assert result.classes == {"cup": pytest.approx(1), "car": 0.0, "cat": pytest.approx(0.6)}
    assert result.values == {"map": pytest.approx(1.6 / 3), "map50": pytest.approx(2 / 3)}


def test_a_broken_network_finds_nothing() -> None:
    rows = len(PLAIN.head.places(SIZE))
    outputs = {
        "things.scores": np.full((rows, 3), 9, np.float32),
        "things.boxes": np.full((rows, 4), np.nan, np.float32),
    }
    assert len(PLAIN.decode(outputs, VIEW, {})) == 0
    metric = PLAIN.new_metric()
    metric.update(
        {"things": PLAIN.decode(outputs, VIEW, {})}, Sample("a", IMAGE, {"objects": LABEL})
    )
    assert metric.result().values == {"map": 0.0, "map50": 0.0}
    assert "one of the task's classes" in PLAIN.new_metric().result().note


def test_two_classes_do_not_suppress_each_other() -> None:
    rows = len(PLAIN.head.places(SIZE))
    scores = np.full((rows, 3), -9, np.float32)
    scores[10], scores[11] = [2, 1, -9], [1.5, -9, -9]
    boxes = np.zeros((rows, 4), np.float32)
    boxes[10:12] = 2
    boxes[11, 0], boxes[11, 2] = 3, 1  # the cell beside it means the same box
    found = PLAIN.decode({"things.scores": scores, "things.boxes": boxes}, VIEW, {})
    shown = found.scores > 0.5
    assert found.classes[shown].tolist() == [0, 1]


@pytest.mark.parametrize("name", HEADS)
def test_descriptions_and_shapes(name: str) -> None:
    own = task(name)
    again = build(own.spec())
    assert again.spec() == own.spec() and again.outputs == own.outputs
    shapes = dict.fromkeys(own.outputs, (1, 7, 3))
    with pytest.raises(InputRefused, match="reads"):
        own.check_outputs(shapes, SIZE)
