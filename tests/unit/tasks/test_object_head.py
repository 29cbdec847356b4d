"""What the numbers of a detector's head mean, by hand for every box code."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from edgemtl.tasks.object_head import ObjectHead

SIZE = (32, 48)
ANCHORS = [[[8, 16], [16, 8]]]
HEADS: dict[str, dict[str, Any]] = {
    "offsets": {"code": "offsets", "strides": [16], "anchors": ANCHORS},
    "sides": {"code": "sides", "strides": [8, 16]},
    "bins": {"code": "bins", "strides": [8, 16], "bins": 4},
    "cell": {"code": "cell", "strides": [16], "objectness": True},
    "shares": {"code": "shares", "queries": 5, "scores": "softmax", "background": "last"},
}


def head(code: str) -> ObjectHead:
    return ObjectHead.from_dict(HEADS[code])


@pytest.mark.parametrize("code", HEADS)
def test_a_head_survives_being_data(code: str) -> None:
    data = json.loads(json.dumps(head(code).to_dict()))
    assert ObjectHead.from_dict(data) == head(code)


def test_places_go_stride_by_stride_row_by_row_anchor_by_anchor() -> None:
    places = head("offsets").places(SIZE)
    assert places.shape == (2 * 3 * 2, 5)
    assert places[:3].tolist() == [[8, 8, 8, 16, 16], [8, 8, 16, 8, 16], [24, 8, 8, 16, 16]]
    cells = head("sides").places(SIZE)
    assert len(cells) == 4 * 6 + 2 * 3
    assert cells[6].tolist() == [4, 12, 8, 8, 8] and cells[24].tolist() == [8, 8, 16, 16, 16]
    assert len(ObjectHead("sides", (32,)).places((33, 65))) == 2 * 3  # what hangs over counts


def one(code: str, row: int, *numbers: float) -> list[float]:
    found = head(code)
    raw = torch.zeros(len(found.places(SIZE)), found.numbers)
    raw[row] = torch.tensor(numbers)
    return [round(value, 4) for value in found.boxes(raw, SIZE)[row].tolist()]


def test_boxes_by_hand() -> None:
    # anchor at (24, 8), 8 wide, 16 high: half a width to the right, twice as high
    move = one("offsets", 2, 5.0, 0.0, 0.0, math.log(2) / 0.2)
    assert move == [24, -8, 32, 24]
    assert one("sides", 24, 0.5, 0.25, 1.0, 0.0) == [0, 4, 24, 8]
    assert one("cell", 1, 0.25, 0.5, 0.0, math.log(2)) == [12, -8, 28, 24]
    assert one("shares", 3, 0.5, 0.5, 0.5, 1.0) == [12, 0, 36, 32]
    sure = [0.0, 99.0, 0.0, 0.0]  # distance 1
    even = [0.0, 0.0, 0.0, 0.0]  # mean of 0 to 3
    assert one("bins", 0, *sure, *sure, *even, *even) == [-4, -4, 16, 16]


def test_a_box_is_never_infinite() -> None:
    for code in ("offsets", "cell"):
        assert all(math.isfinite(value) for value in one(code, 0, 0.0, 0.0, 1e9, 1e9))


def test_scores_by_hand() -> None:
    scores = torch.tensor([[math.log(3), 0.0, 0.0]])
    assert head("sides").probabilities(scores, None)[0].tolist() == pytest.approx([0.75, 0.5, 0.5])
    last = head("shares").probabilities(scores, None)
    assert last[0].tolist() == pytest.approx([0.6, 0.2])
    first = ObjectHead("sides", (8,), scores="softmax", background="first")
    assert first.probabilities(scores, None)[0].tolist() == pytest.approx([0.2, 0.2])
    weighed = head("cell").probabilities(scores, torch.tensor([[math.log(3)]]))
    assert weighed[0].tolist() == pytest.approx([0.5625, 0.375, 0.375])
    plain = ObjectHead("sides", (8,), scores="none")
    assert plain.probabilities(torch.tensor([[0.5]]), None).tolist() == [[0.5]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "circles"},
        {"code": "sides"},
        {"code": "sides", "strides": [8], "queries": 5},
        {"code": "sides", "strides": [0]},
        {"code": "sides", "strides": [8.5]},
        {"code": "sides", "strides": [8], "anchors": [[[8, 8]]]},
        {"code": "offsets", "strides": [8, 16], "anchors": [[[8, 8]]]},
        {"code": "offsets", "strides": [8], "anchors": [[[8, -8]]]},
        {"code": "offsets", "strides": [8], "anchors": [[[8, 8]]], "variances": [0, 1]},
        {"code": "shares"},
        {"code": "shares", "queries": 5, "strides": [8]},
        {"code": "shares", "queries": 5, "scores": "softmax"},
        {"code": "bins", "strides": [8], "bins": 1},
        {"code": "sides", "strides": [8], "nms": 0},
        {"code": "sides", "strides": [8], "colour": 1},
        {"code": "sides", "strides": [8], "scores": "relu"},
    ],
)
def test_heads_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        ObjectHead.from_dict(wrong)
