"""Regression: plain and circular numbers, loss, decoding and errors worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import MetricResult, Regression, build

VIEW = View(1.0, 0.0, 0.0, (40, 60), (40, 60))
IMAGE = np.zeros((40, 60, 3), np.uint8)
SPEED = Regression("speed", "km/h", scale=10.0)
HEADING = Regression("heading", "deg", circular=(0, 360))
COMPASS = Regression("heading", "deg", circular=(0, 360), encoding="sin_cos")


def values(task: Regression, *rows: list[float]) -> dict[str, torch.Tensor]:
    return {task.outputs[0]: torch.tensor(rows)}


def decoded(task: Regression, *numbers: float) -> float:
    return task.decode({task.outputs[0]: np.array(numbers, np.float32)}, VIEW, {})


def measured(task: Regression, *pairs: tuple[float, object]) -> MetricResult:
    metric = task.new_metric()
    for found, label in pairs:
        labels = {} if label is None else {task.label_kind: label}
        metric.update({task.name: found}, Sample("a", IMAGE, labels))
    return metric.result()


def test_labels_are_numbers_also_as_text() -> None:
    found = SPEED.collate([1, "2.5", None, np.float32(3), -4.0], (40, 60))
    assert found.nan_to_num(99).tolist() == [1, 2.5, 99, 3, -4]


@pytest.mark.parametrize("label", ["fast", True, [1], math.nan, "inf", {}])
def test_a_label_that_is_no_finite_number_is_refused(label: object) -> None:
    with pytest.raises(InputRefused, match=r"'speed' is .*no finite number"):
        SPEED.collate([label], (40, 60))


def test_loss_counts_errors_in_multiples_of_the_scale() -> None:
    outputs = values(SPEED, [5.0], [30.0], [7.0])
    targets = SPEED.collate([0, 0, None], (40, 60))
    # errors of 0.5 and 3 scales: 0.125 and 2.5 in smooth L1
    assert float(SPEED.loss(outputs, targets)) == pytest.approx((0.125 + 2.5) / 2)
    assert float(SPEED.loss(outputs, SPEED.collate([None] * 3, (40, 60)))) == 0


def test_on_a_circle_the_short_way_counts_in_loss_and_distillation() -> None:
    outputs = values(HEADING, [359.5])
    assert float(HEADING.loss(outputs, HEADING.collate([0], (1, 1)))) == pytest.approx(0.125)
    far = HEADING.distil(outputs, values(HEADING, [0.5]), None)
    assert float(far) == pytest.approx(12 / 360**2)  # one degree apart


def test_sine_and_cosine_are_read_whatever_their_length() -> None:
    assert decoded(COMPASS, 3.0, 0.0) == pytest.approx(90)
    assert decoded(COMPASS, 0.0, -0.1) == pytest.approx(180)
    assert decoded(COMPASS, -1.0, 1.0) == pytest.approx(315)
    outputs = values(COMPASS, [2.0, 0.0])
    for label, wanted in ((90, 0.0), (0, 1.0), (270, 2.0)):
        loss = COMPASS.loss(outputs, COMPASS.collate([label], (1, 1)))
        assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_decoding_wraps_on_a_circle_only() -> None:
    assert decoded(HEADING, -30.0) == pytest.approx(330)
    assert decoded(HEADING, 725.0) == pytest.approx(5)
    assert decoded(SPEED, -30.0) == -30
    assert math.isnan(decoded(SPEED, np.inf)) and math.isnan(decoded(COMPASS, 0.0, np.nan))


def test_errors_by_hand() -> None:
    found = measured(SPEED, (10.0, 13), (10.0, "6"), (5.0, None))
    assert found.count == 2
    assert found.values == pytest.approx({"mae": 3.5, "rmse": math.sqrt((9 + 16) / 2)})
    around = measured(HEADING, (359.0, 1), (10.0, 350), (0.0, 540))
    assert around.values["mae"] == pytest.approx((2 + 20 + 180) / 3)


def test_what_is_not_measured_says_why() -> None:
    assert measured(SPEED, (1.0, None)).note.startswith("no picture has a label 'speed'")
    broken = measured(SPEED, (math.nan, 1), (1.0, 1))
    assert broken.values["mae"] is None and "for 1 labelled picture(s)" in broken.note


def test_a_mirror_image_only_where_it_is_said_what_becomes_of_the_number() -> None:
    assert SPEED.mirror(7.5, 60) is None
    assert Regression("a", mirror="same").mirror(7.5, 60) == 7.5
    assert Regression("a", mirror="negated").mirror(7.5, 60) == -7.5
    assert Regression("a", circular=(0, 360), mirror="negated").mirror(10, 60) == 350
    assert SPEED.crop(7.5, Part((40, 60), 0, 0, 20, 30)) is None
    assert SPEED.to_canvas(7.5, VIEW) == 7.5


def test_the_unit_goes_into_figures_and_words() -> None:
    assert (SPEED.primary.unit, SPEED.primary.direction) == ("km/h", "lower")
    assert SPEED.describe({"speed": 12.5}) == {"value": 12.5, "unit": "km/h"}
    assert SPEED.describe({"speed": math.nan}) is None
    assert (SPEED.draw(IMAGE.copy(), {"speed": 12.5}) != IMAGE).any()


@pytest.mark.parametrize("task", [SPEED, HEADING, COMPASS], ids=["plain", "circle", "sin_cos"])
def test_descriptions_and_shapes(task: Regression) -> None:
    again = build(task.spec())
    assert again.spec() == task.spec() and again.primary == task.primary
    task.check_outputs({task.outputs[0]: (1, task.values)}, (40, 60))
    with pytest.raises(InputRefused, match="reads"):
        task.check_outputs({task.outputs[0]: (1, 3)}, (40, 60))


@pytest.mark.parametrize(
    "options",
    [
        {"circular": (360, 0)},
        {"circular": (0, math.inf)},
        {"circular": (1,)},
        {"encoding": "sin_cos"},
        {"encoding": "degrees"},
        {"mirror": "left"},
        {"scale": 0},
        {"unit": "a\nb"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises((ValueError, InputRefused)):
        Regression("x", **options)  # type: ignore[arg-type]
