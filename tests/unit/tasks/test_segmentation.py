"""Segmentation: ignored pixels, coarse outputs, mIoU by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks import build
from edgemtl.tasks.base import MetricResult
from edgemtl.tasks.segmentation import Segmentation, palette

TASK = Segmentation("parts", ("ground", "head", "arm"))
CANVAS = (8, 12)


def evaluate(*images: tuple[list[list[int]], list[list[int]]]) -> MetricResult:
    metric = TASK.new_metric()
    for label, answer in images:
        sample = Sample("x", np.zeros((1, 1, 3), np.uint8), {"segmentation": np.array(label)})
        metric.update({"parts": np.array(answer)}, sample)
    return metric.result()


def test_loss_is_the_mean_over_labelled_pixels() -> None:
    logits = torch.randn((2, 3, *CANVAS), generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    label = np.full(CANVAS, -1)
    label[2, 3], label[4, 5] = 1, 2
    targets = TASK.collate([label, None], CANVAS)
    loss = TASK.loss({"parts.logits": logits}, targets)
    log_share = logits.detach()[0].log_softmax(dim=0)
    assert loss.item() == pytest.approx(-(log_share[1, 2, 3] + log_share[2, 4, 5]).item() / 2)
    loss.backward()
    assert logits.grad is not None
    touched = torch.nonzero(logits.grad.abs().sum(dim=1)).tolist()
    assert touched == [[0, 2, 3], [0, 4, 5]]


def test_nothing_labelled_costs_nothing() -> None:
    logits = torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    targets = TASK.collate([None, np.full(CANVAS, -1)], CANVAS)
    loss = TASK.loss({"parts.logits": logits}, targets)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.abs().sum() == 0


def test_a_coarse_output_is_judged_at_the_canvas() -> None:
    logits = torch.randn((1, 3, 3, 5), generator=torch.Generator().manual_seed(1))
    label = np.random.default_rng(0).integers(0, 3, CANVAS)
    fine = F.interpolate(logits, size=CANVAS, mode="bilinear", align_corners=False)
    wanted = F.cross_entropy(fine, torch.from_numpy(label)[None])
    loss = TASK.loss({"parts.logits": logits}, TASK.collate([label], CANVAS))
    assert loss.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_decoding_finds_the_regions_of_the_image(stride: int) -> None:
    """Left third class 1, the rest class 2, through a letterbox with a border above and below."""
    spec = InputSpec((64, 96))
    _, view = letterbox(np.zeros((60, 150, 3), np.uint8), spec)
    logits = np.zeros((3, 64 // stride, 96 // stride), np.float32)
    edge = 32 // stride
    logits[1, :, :edge], logits[2, :, edge:] = 5, 5
    logits[0, : math.floor(view.top) // stride - 1] = 50  # in the border only
    decoded = TASK.decode({"parts.logits": logits}, view, {})
    assert decoded.shape == (60, 150) and decoded.dtype == np.int64
    tolerance = 2 * stride
    assert (decoded[:, : 50 - tolerance] == 1).all()
    assert (decoded[:, 50 + tolerance :] == 2).all()


def test_decoding_takes_the_first_of_equal_classes_and_survives_nan() -> None:
    _, view = letterbox(np.zeros((8, 12, 3), np.uint8), InputSpec(CANVAS))
    logits = np.zeros((3, *CANVAS), np.float32)
    assert (TASK.decode({"parts.logits": logits}, view, {}) == 0).all()
    logits[:] = np.nan
    assert (TASK.decode({"parts.logits": logits}, view, {}) == 0).all()


def test_metric_by_hand() -> None:
    """Class 0: 2 of 2 + 1 false; class 1: 1 of 3; class 2 is answered once, labelled nowhere."""
    result = evaluate(([[0, 0, 1], [1, 1, -1]], [[0, 0, 1], [0, 2, 2]]))
    assert result.values["miou"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert result.values["pixel_accuracy"] == pytest.approx(3 / 5)
    assert result.count == 5


def test_images_are_pooled_not_averaged() -> None:
    images = (([[0, 0, 0, 1]], [[0, 0, 0, 0]]), ([[1, 1]], [[1, 1]]))
    assert evaluate(*images).values["miou"] == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_nothing_to_measure_says_so() -> None:
    for result in (TASK.new_metric().result(), evaluate(([[-1, -1]], [[0, 1]]))):
        assert result.values == {"miou": None, "pixel_accuracy": None}
        assert result.count == 0 and result.note
    metric = TASK.new_metric()
    metric.update({"parts": np.zeros((1, 1), int)}, Sample("x", np.zeros((1, 1, 3), np.uint8)))
    assert metric.result().count == 0


maps = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=30).filter(
    lambda pairs: any(label >= 0 for label, _ in pairs)
)


@given(maps, st.randoms(use_true_random=False))
def test_metric_is_bounded_blind_to_order_and_one_only_when_right(pairs, shuffle) -> None:  # type: ignore[no-untyped-def]
    def values(items):  # type: ignore[no-untyped-def]
        return evaluate(([[label for label, _ in items]], [[answer for _, answer in items]])).values

    before = values(pairs)
    assert all(0 <= value <= 1 for value in before.values())
    right = all(label in (-1, answer) for label, answer in pairs)
    assert (before["miou"] == 1.0) == (before["pixel_accuracy"] == 1.0) == right
    mixed = list(pairs)
    shuffle.shuffle(mixed)
    assert values(mixed) == pytest.approx(before)


def test_labels_of_unknown_classes_are_refused() -> None:
    label = np.zeros(CANVAS, int)
    label[0, 0] = 3
    with pytest.raises(InputRefused, match="class 3, the task has classes 0 to 2"):
        TASK.collate([label], CANVAS)
    with pytest.raises(InputRefused, match="class 3"):
        evaluate((label.tolist(), np.zeros(CANVAS, int).tolist()))


def test_a_label_of_another_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="canvas"):
        TASK.collate([np.zeros((4, 4), int)], CANVAS)


def test_description_is_the_share_of_pixels_per_class() -> None:
    described = TASK.describe({TASK.name: np.array([[0, 0, 0, 2]])})
    assert described == {"ground": 0.75, "arm": 0.25}
    json.dumps(described)


def test_drawing_tints_classes_and_keeps_the_size() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    decoded = np.zeros((4, 6), np.int64)
    decoded[:, 3:] = 1
    drawn = TASK.draw(image, {"parts": decoded})
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn[:, 0] == 50).all(), "the first class darkens"
    assert (drawn[0, 5] != drawn[0, 0]).any()


@pytest.mark.parametrize("classes", [2, 21, 59])
def test_palette_has_a_colour_per_class(classes: int) -> None:
    colours = palette(classes)
    assert colours.shape == (classes, 3) and (colours[0] == 0).all()
    assert len({tuple(c) for c in colours.tolist()}) == classes


def test_task_is_rebuilt_from_its_spec() -> None:
    again = build(TASK.spec())
    assert isinstance(again, Segmentation) and again.spec() == TASK.spec()
    assert again.outputs == ("parts.logits",)


@pytest.mark.parametrize("classes", [[], ["one"], ["a", "a"], "ab", [1, 2], 5])
def test_unusable_classes_are_refused(classes: object) -> None:
    spec = TASK.spec()
    with pytest.raises(InputRefused, match="options that do not fit"):
        build(type(spec)("parts", "segmentation", {"classes": classes}))
