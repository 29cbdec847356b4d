"""Classification: labels by name and number, loss, decoding, top-1 and macro F1 worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import Classification, build

CLASSES = ("cat", "dog", "10")
VIEW = View(1.0, 0.0, 0.0, (40, 60), (40, 60))
IMAGE = np.zeros((40, 60, 3), np.uint8)
TASK = Classification("animal", CLASSES)


def logits(*values: float) -> dict[str, np.ndarray]:
    return {"animal.logits": np.array(values, np.float32)}


def test_labels_are_names_or_numbers_a_name_first() -> None:
    labels = ["dog", 0, None, "1", 2.0, "10", 10, 10.0, np.int64(1)]
    assert TASK.collate(labels, (40, 60)).tolist() == [1, 0, -1, 1, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("label", ["cow", 3, -1, 0.5, True, [1], float("nan"), "9" * 40])
def test_a_label_that_is_no_class_is_refused_with_the_classes(label: object) -> None:
    with pytest.raises(InputRefused, match="none of its 3 classes") as refused:
        TASK.collate([label], (40, 60))
    assert "cat, dog, 10" in str(refused.value.hint)


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], "ab", [1, 2]])
def test_classes_that_make_no_sense_are_refused(classes: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Classification("x", classes)  # type: ignore[arg-type]


def test_loss_is_the_cross_entropy_over_what_is_labelled() -> None:
    outputs = {"animal.logits": torch.tensor([[0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0]])}
    targets = TASK.collate(["cat", "cat"], (40, 60))
    wanted = (math.log(3) + math.log(5 / 3)) / 2  # softmax: 1/3 and 3/5
    assert float(TASK.loss(outputs, targets)) == pytest.approx(wanted, rel=1e-6)
    one = TASK.collate([None, "cat"], (40, 60))
    assert float(TASK.loss(outputs, one)) == pytest.approx(math.log(5 / 3), rel=1e-6)
    assert float(TASK.loss(outputs, TASK.collate([None, None], (40, 60)))) == 0


def test_distillation_is_zero_for_the_teacher_and_the_divergence_otherwise() -> None:
    teacher = {"animal.logits": torch.tensor([[math.log(2), 0.0, 0.0]])}  # 1/2, 1/4, 1/4
    assert float(TASK.distil(teacher, teacher, None)) == pytest.approx(0, abs=1e-7)
    student = {"animal.logits": torch.zeros(1, 3, requires_grad=True)}  # thirds
    wanted = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    found = TASK.distil(student, teacher, None)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert student["animal.logits"].grad is not None


def test_decoding_gives_probabilities_and_describes_the_likeliest() -> None:
    found = TASK.decode(logits(math.log(2), 0.0, 0.0), VIEW, {})
    assert found == pytest.approx([0.5, 0.25, 0.25])
    assert TASK.describe({"animal": found}) == {"class": "cat", "probability": 0.5}
    broken = TASK.decode(logits(np.nan, 0.0, np.inf), VIEW, {})
    assert np.isnan(broken).all() and TASK.describe({"animal": broken}) is None


def test_what_all_logits_share_is_not_read() -> None:
    outputs = {"animal.logits": torch.tensor([[5.0, 6.0, 7.0]])}
    values, _ = TASK.read(outputs)["animal.logits"]
    assert values.tolist() == [[-1, 0, 1]]


def test_figures_by_hand() -> None:
    metric = TASK.new_metric()
    told = [("cat", 0), ("cat", 0), ("cat", 1), ("dog", 1), ("dog", None)]
    for label, answer in told:
        scores = np.full(3, np.nan) if answer is None else np.eye(3)[answer]
        metric.update({"animal": scores}, Sample("a", IMAGE, {"animal": label}))
    result = metric.result()
    assert result.count == 5
    assert result.values["top1"] == pytest.approx(3 / 5)
    # cat: 2 hits of 3, answered 2: 4/5; dog: 1 hit of 2, answered 2: 2/4; '10' is in no label
    assert result.values["macro_f1"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert result.classes == {"cat": pytest.approx(4 / 5), "dog": 0.5, "10": None}


def test_without_labels_the_note_says_which_labels_there_are() -> None:
    metric = TASK.new_metric()
    metric.update({"animal": np.ones(3)}, Sample("a", IMAGE, {"beast": "cat"}))
    result = metric.result()
    assert set(result.values.values()) == {None}
    assert result.note == "no picture has a label 'animal'; the data has: beast"


def test_a_label_stays_on_the_canvas_and_mirrors_only_where_it_is_said_to() -> None:
    assert TASK.to_canvas("dog", VIEW) == "dog"
    assert TASK.mirror("dog", 60) is None
    assert Classification("animal", CLASSES, mirror=True).mirror("dog", 60) == "dog"
    assert TASK.crop("dog", Part((40, 60), 0, 0, 20, 30)) is None


def test_options_and_outputs() -> None:
    task = build(Classification("a", CLASSES, label="class", mirror=True).spec())
    assert isinstance(task, Classification) and task.label_kind == "class" and task.mirrors
    task.check_outputs({"a.logits": (1, 3)}, (40, 60))
    for shape in ((1, 4), (1, 3, 2), (3,)):
        with pytest.raises(InputRefused, match=r"task 'a' reads \(B, 3\)"):
            task.check_outputs({"a.logits": shape}, (40, 60))


def test_captions_of_several_tasks_lie_below_each_other() -> None:
    other = Classification("sky", ("blue", "grey"))
    decoded = {"animal": np.array([0.9, 0.1, 0.0]), "sky": np.array([0.2, 0.8])}
    canvas = np.full((120, 200, 3), 128, np.uint8)
    first = TASK.draw(canvas.copy(), decoded)
    second = other.draw(canvas.copy(), decoded)
    drawn = [(image != canvas).any(axis=2) for image in (first, second)]
    assert drawn[0].any() and drawn[1].any() and not (drawn[0] & drawn[1]).any()
