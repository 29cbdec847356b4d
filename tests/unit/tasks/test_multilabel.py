"""Multi-label classification: labels in every form, loss, and average precision by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import Multilabel, build

TASK = Multilabel("tags", ("red", "round", "old"))
IMAGE = np.zeros((40, 60, 3), np.uint8)
VIEW = View(1.0, 0.0, 0.0, (40, 60), (40, 60))
UNKNOWN = 9.0


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        (["red", 2], [1, 0, 1]),
        ("red|old", [1, 0, 1]),
        (" red | old ", [1, 0, 1]),
        ("-", [0, 0, 0]),
        ([], [0, 0, 0]),
        ("round", [0, 1, 0]),
        (1.0, [0, 1, 0]),
        ({"red": True, "old": 0}, [1, UNKNOWN, 0]),
        ({"red": None}, [UNKNOWN] * 3),
        (None, [UNKNOWN] * 3),
    ],
)
def test_labels(label: object, wanted: list[float]) -> None:
    (row,) = TASK.collate([label], (40, 60)).nan_to_num(UNKNOWN).tolist()
    assert row == wanted


@pytest.mark.parametrize("label", ["red|blue", ["blue"], {"blue": 1}, [3], object(), [["red"]]])
def test_a_label_that_is_no_class_is_refused(label: object) -> None:
    with pytest.raises(InputRefused, match="task 'tags'"):
        TASK.collate([label], (40, 60))


def test_loss_is_over_known_classes_only() -> None:
    outputs = {"tags.logits": torch.tensor([[math.log(3), 0.0, 5.0]])}  # 3/4, 1/2
    targets = TASK.collate([{"red": 1, "round": 0}], (40, 60))
    wanted = (math.log(4 / 3) + math.log(2)) / 2
    assert float(TASK.loss(outputs, targets)) == pytest.approx(wanted, rel=1e-6)
    assert float(TASK.loss(outputs, TASK.collate([None], (40, 60)))) == 0


def test_distillation_is_zero_for_the_teacher_and_the_divergence_otherwise() -> None:
    teacher = {"tags.logits": torch.tensor([[math.log(3)] * 3])}
    assert float(TASK.distil(teacher, teacher, None)) == pytest.approx(0, abs=1e-7)
    found = float(TASK.distil({"tags.logits": torch.zeros(1, 3)}, teacher, None))
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5)


def test_decoding_shows_what_is_likely() -> None:
    logits = np.array([math.log(3), -1, np.nan], np.float32)
    found = TASK.decode({"tags.logits": logits}, VIEW, {})
    assert TASK.describe({"tags": found}) == {"red": pytest.approx(0.75)}
    assert (TASK.draw(IMAGE.copy(), {"tags": found}) != IMAGE).any()


def test_mean_average_precision_by_hand() -> None:
    metric = TASK.new_metric()
    shown: list[tuple[list[float], object]] = [
        ([0.9, 0.1, 0.3], ["red"]),
        ([0.8, 0.1, 0.2], []),
        ([0.7, 0.9, 0.1], "red|round"),
        ([0.1, 0.2, 0.9], {"round": 0}),
        ([0.5, 0.5, 0.5], None),
    ]
    for scores, label in shown:
        labels = {} if label is None else {"tags": label}
        metric.update({"tags": np.array(scores, np.float32)}, Sample("a", IMAGE, labels))
    result = metric.result()
    # red: hit, miss, hit over two: 1/2 * 1 + 1/2 * 2/3; round: the best of four is the one;
    # nothing is old
    assert result.count == 4
    assert result.values["map"] == pytest.approx((5 / 6 + 1) / 2)
    assert result.classes == {"red": pytest.approx(5 / 6), "round": 1.0, "old": None}


def test_not_finite_comes_last_and_nothing_there_is_told() -> None:
    metric = TASK.new_metric()
    for scores, label in (([np.nan] * 3, ["red"]), ([0.1] * 3, [])):
        metric.update({"tags": np.array(scores)}, Sample("a", IMAGE, {"tags": label}))
    assert metric.result().values["map"] == pytest.approx(0.5)
    empty = TASK.new_metric()
    empty.update({"tags": np.ones(3)}, Sample("a", IMAGE, {"tags": []}))
    assert empty.result().note == "no label says that a class is there"
    assert TASK.new_metric().result().note == "no picture has a label 'tags'"


def test_options_shapes_and_places() -> None:
    task = build(Multilabel("t", ("a",), label="x", mirror=True).spec())
    assert task.label_kind == "x" and task.mirror(["a"], 60) == ["a"]
    assert TASK.mirror(["red"], 60) is None and TASK.to_canvas(["red"], VIEW) == ["red"]
    TASK.check_outputs({"tags.logits": (1, 3)}, (40, 60))
    with pytest.raises(InputRefused, match=r"reads \(B, 3\)"):
        TASK.check_outputs({"tags.logits": (1, 2)}, (40, 60))
    with pytest.raises(ValueError, match="one or more"):
        Multilabel("t", ())
