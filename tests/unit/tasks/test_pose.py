"""Head pose: bins and their expectation, masked loss, mean absolute error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Faces, Sample
from edgemtl.tasks.anchors import AnchorSpec
from edgemtl.tasks.base import MetricResult
from edgemtl.tasks.detection import Detections
from edgemtl.tasks.pose import AXES, HeadPose, bin_targets, expected_angle

SPEC = AnchorSpec()
CANVAS = (64, 96)
COUNT = SPEC.count(CANVAS)
TASK = HeadPose("pose", SPEC.to_dict())
BOX = (20.0, 12.0, 52.0, 44.0)
NAN = float("nan")


def faces(*poses: tuple[float, float, float], box: tuple[float, ...] = BOX) -> Faces:
    count = len(poses)
    return Faces(
        np.tile(np.array(box, np.float32), (count, 1)),
        np.full((count, 5, 2), np.nan, np.float32),
        np.array(poses, np.float32),
    )


def expectation(target: torch.Tensor) -> torch.Tensor:
    """Degrees of a distribution over 66 bins of 3 degrees from -99 on (MOS, section 4)."""
    return 3 * (target.double() @ torch.arange(66.0, dtype=torch.float64)) - 99


@given(st.lists(st.floats(-99, 96, width=32), min_size=1, max_size=20))
def test_expectation_of_the_targets_is_the_angle(angles: list[float]) -> None:
    target = bin_targets(torch.tensor(angles))
    assert target.shape == (len(angles), 66)
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(dim=1), torch.ones(len(angles)))
    assert ((target > 0).sum(dim=1) <= 2).all()
    torch.testing.assert_close(
        expectation(target), torch.tensor(angles, dtype=torch.float64), atol=2e-5, rtol=0
    )


@given(st.lists(st.floats(-98.5, 95.5, width=32), min_size=1, max_size=10))
def test_decoding_inverts_the_targets(angles: list[float]) -> None:
    logits = bin_targets(torch.tensor(angles)).clamp(min=1e-30).log().numpy()
    np.testing.assert_allclose(expected_angle(logits), np.float32(angles), atol=1e-3)


def test_golden_angles() -> None:
    target = bin_targets(torch.tensor([-99.0, 0.0, 1.5, 96.0]))
    assert target[0, 0] == 1 and target[1, 33] == 1 and target[3, 65] == 1
    assert target[2, 33] == target[2, 34] == 0.5
    uniform = expected_angle(np.zeros((1, 66), np.float32))
    assert uniform[0] == pytest.approx(3 * 32.5 - 99)


@pytest.mark.parametrize(("angle", "reached"), [(96.5, 96.0), (98.99, 96.0), (-98.99, -98.99)])
def test_the_last_bin_is_the_largest_answer(angle: float, reached: float) -> None:
    assert expectation(bin_targets(torch.tensor([angle]))).item() == pytest.approx(reached)


def test_expectation_survives_large_logits() -> None:
    logits = np.full((1, 66), -1e4, np.float32)
    logits[0, 40] = 1e4
    assert expected_angle(logits)[0] == pytest.approx(21.0)


def outputs(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"pose.{axis}": torch.randn((batch, COUNT, 66), generator=generator).requires_grad_()
        for axis in AXES
    }


def test_loss_by_hand_and_masked_where_unlabelled() -> None:
    """Cross-entropy with the split target plus 0.1 squared bins, per positive of picture 0."""
    answer = outputs(3)
    targets = TASK.collate([faces((10, -20, 35)), faces((NAN, NAN, NAN)), None], CANVAS)
    match = targets.match(SPEC)
    mine = match.prior[match.image == 0]
    terms = TASK.loss_terms(answer, targets)
    for axis, angle in zip(AXES, (10, -20, 35), strict=True):
        position = (angle + 99) / 3
        low, share = math.floor(position), position - math.floor(position)
        rows = answer[f"pose.{axis}"][0, mine].detach().double()
        log_share = rows.log_softmax(dim=1)
        cross = -(1 - share) * log_share[:, low] - share * log_share[:, low + 1]
        squared = (log_share.exp() @ torch.arange(66.0).double() - position) ** 2
        wanted = (cross + 0.1 * squared).mean().item()
        assert terms[axis].item() == pytest.approx(wanted, rel=1e-4)
    TASK.loss(answer, targets).backward()
    for output in answer.values():
        assert output.grad is not None
        touched = torch.nonzero(output.grad.abs().sum(dim=2))
        assert touched[:, 0].unique().tolist() == [0]
        assert touched[:, 1].tolist() == mine.tolist()


@pytest.mark.parametrize(
    "pose", [(NAN, NAN, NAN), (NAN, 1.0, 2.0), (99.0, 0.0, 0.0), (0.0, -120.0, 0.0)]
)
def test_angles_without_a_bin_teach_nothing(pose: tuple[float, float, float]) -> None:
    answer = outputs(1)
    loss = TASK.loss(answer, TASK.collate([faces(pose)], CANVAS))
    assert loss.item() == 0
    loss.backward()
    assert all(
        output.grad is not None and output.grad.abs().sum() == 0 for output in answer.values()
    )


@pytest.mark.parametrize("angle", [-98.99, 98.99])
def test_edges_have_a_finite_loss_that_a_right_answer_brings_to_zero(angle: float) -> None:
    targets = TASK.collate([faces((angle, angle, angle))], CANVAS)
    edge = 0 if angle < 0 else 65
    sure = torch.full((1, COUNT, 66), -20.0)
    sure[..., edge] = 20.0
    loss = TASK.loss({f"pose.{axis}": sure for axis in AXES}, targets)
    assert 0 <= loss.item() < 1.0
    assert math.isfinite(TASK.loss(outputs(1), targets).item())


def test_decoding_reads_the_detections_priors() -> None:
    _, view = letterbox(np.zeros((64, 96, 3), np.uint8), InputSpec(CANVAS))
    arrays = {f"pose.{axis}": np.zeros((COUNT, 66), np.float32) for axis in AXES}
    for offset, axis in enumerate(AXES):
        arrays[f"pose.{axis}"][17, 33 + offset] = 50.0
    found = Detections(np.zeros((1, 4), "f4"), np.ones(1, "f4"), np.array([17]))
    decoded = TASK.decode(arrays, view, {"detection": found})
    np.testing.assert_allclose(decoded, [[0, 3, 6]], atol=1e-3)
    assert TASK.describe({"pose": decoded, "detection": found}) == [
        {axis: pytest.approx(3.0 * i, abs=1e-3) for i, axis in enumerate(AXES)}
    ]
    none = Detections(np.zeros((0, 4), "f4"), np.zeros(0, "f4"), np.zeros(0, np.int64))
    assert TASK.decode(arrays, view, {"detection": none}).shape == (0, 3)


def evaluate(*images: tuple[Faces, list[tuple[float, ...]], list[list[float]]]) -> MetricResult:
    metric = TASK.new_metric()
    for labelled, boxes, angles in images:
        count = len(boxes)
        found = Detections(
            np.array(boxes, np.float32).reshape(count, 4),
            np.full(count, 0.9, np.float32),
            np.arange(count),
        )
        sample = Sample("x", np.zeros((1, 1, 3), np.uint8), {"faces": labelled})
        decoded = np.array(angles, np.float32).reshape(count, 3)
        metric.update({"detection": found, "pose": decoded}, sample)
    return metric.result()


def test_error_by_hand() -> None:
    result = evaluate(
        (faces((10, 20, 30)), [BOX], [[12, 17, 30]]),
        (faces((-10, 0, 5)), [BOX], [[-14, 1, 5]]),
        (faces((0, 0, 0)), [], []),
    )
    assert result.values == pytest.approx(
        {"yaw": 3.0, "pitch": 2.0, "roll": 0.0, "mae_deg": 5 / 3, "missed_share": 1 / 3}
    )
    assert result.count == 3


def test_angles_out_of_range_or_unlabelled_are_not_judged() -> None:
    result = evaluate(
        (faces((120, 0, 0)), [BOX], [[0, 0, 0]]),
        (faces((NAN, NAN, NAN)), [BOX], [[0, 0, 0]]),
        (faces((1, 1, 1)), [BOX], [[0, 0, 0]]),
    )
    assert result.count == 1 and result.values["mae_deg"] == pytest.approx(1.0)


def test_nothing_to_measure_says_so() -> None:
    for result, missed in (
        (TASK.new_metric().result(), None),
        (evaluate((faces((NAN, NAN, NAN)), [BOX], [[0, 0, 0]])), None),
        (evaluate((faces((0, 0, 0)), [], [])), 1.0),
    ):
        assert result.note and result.values["missed_share"] == missed
        assert all(result.values[key] is None for key in ("mae_deg", *AXES))


def test_an_answer_that_is_no_number_is_no_accuracy() -> None:
    result = evaluate((faces((1, 1, 1)), [BOX], [[NAN, 0, 0]]))
    assert result.values["mae_deg"] is None and "finite" in result.note


def test_drawing_turns_with_the_head() -> None:
    """Positive yaw turns the face to the picture's left: the forward axis points there."""
    found = Detections(np.array([[20, 20, 80, 80]], "f4"), np.ones(1, "f4"), np.arange(1))

    def forward_axis(yaw: float) -> float:
        image = np.zeros((100, 100, 3), np.uint8)
        TASK.draw(image, {"detection": found, "pose": np.array([[yaw, 0, 0]], np.float32)})
        blue = (image[..., 0] > 200) & (image[..., 2] < 100)
        return float(np.flatnonzero(blue.any(axis=0)).mean() - 50)

    assert forward_axis(60) < -5 < 5 < forward_axis(-60)
