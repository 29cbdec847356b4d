"""An output without meaning: fidelity, SNR, cosine and largest error by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgemtl.data.preprocess import InputSpec, Part, View
from edgemtl.data.samples import Sample
from edgemtl.measure.accuracy import evaluate
from edgemtl.tasks import MetricResult, Raw, build

TASK = Raw("embedding")
IMAGE = np.zeros((4, 4, 3), np.uint8)
VIEW = View(1.0, 0.0, 0.0, (4, 4), (4, 4))


def measured(*pairs: tuple[list[float], list[float]]) -> MetricResult:
    metric = TASK.new_metric()
    for found, wanted in pairs:
        label = {TASK.label_kind: np.array(wanted, np.float32)}
        metric.update({"embedding": np.array(found, np.float32)}, Sample("a", IMAGE, label))
    return metric.result()


def test_figures_by_hand() -> None:
    result = measured(([3.0, 4.0], [3.0, 4.0]), ([0.0, 2.0], [0.0, 1.0]), ([1.0, 0.0], [0.0, 1.0]))
    # noise 0 + 1 + 2, signal 25 + 1 + 1
    assert result.count == 3
    assert result.values == pytest.approx(
        {
            "fidelity": 1 - 3 / 27,
            "snr_db": 10 * math.log10(9),
            "cosine": (1 + 1 + 0) / 3,
            "largest_error": 1.0,
        }
    )


def test_the_same_answer_has_no_noise() -> None:
    same = measured(([1.0, -2.0], [1.0, -2.0]), ([0.0, 0.0], [0.0, 0.0]))
    assert same.values == {"fidelity": 1.0, "snr_db": 150.0, "cosine": 1.0, "largest_error": 0.0}


def test_a_network_that_died_or_broke_is_not_faithful() -> None:
    dead = measured(([0.0, 0.0], [3.0, 4.0]))
    assert dead.values["fidelity"] == 0 and dead.values["cosine"] == 0
    broken = measured(([np.nan, 0.0], [3.0, 4.0]))
    assert set(broken.values.values()) == {None} and broken.note == "a number is not finite"
    silent = measured(([1.0], [0.0]))
    assert silent.values["fidelity"] is None and "answers 0 everywhere" in silent.note


def test_without_the_uncompressed_network_nothing_is_measured() -> None:
    metric = TASK.new_metric()
    metric.update({"embedding": np.ones(2)}, Sample("a", IMAGE, {}))
    assert metric.result().note == "no uncompressed network to compare with"


def test_evaluation_asks_the_uncompressed_network_for_the_label() -> None:
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding.values": images.mean(axis=(2, 3)) + 1}

    def reference(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding.values": images.mean(axis=(2, 3))}

    class Two:
        name, problems = "two", ()

        def __iter__(self):  # type: ignore[no-untyped-def]
            for level in (1, 2):
                yield Sample(str(level), np.full((4, 4, 3), level, np.uint8), {})

        def __len__(self) -> int:
            return 2

    spec = InputSpec((4, 4))
    found = evaluate(run, [TASK], spec, Two(), reference)  # type: ignore[arg-type]
    # three numbers of 1, then of 2, all off by 1: noise 6, signal 3 + 12
    assert found.tasks["embedding"].values["fidelity"] == pytest.approx(1 - 6 / 15)
    alone = evaluate(run, [TASK], spec, Two())  # type: ignore[arg-type]
    assert alone.tasks["embedding"].values["fidelity"] is None


def test_loss_is_the_noise_of_what_is_known() -> None:
    outputs = {"embedding.values": torch.tensor([[3.0, 4.0], [1.0, 1.0]])}
    targets = TASK.collate([np.array([3.0, 0.0], np.float32), None], (4, 4))
    assert float(TASK.loss(outputs, targets)) == pytest.approx(16 / 9)
    changed = TASK.collate([TASK.mirror(np.ones(2), 4), None], (4, 4))
    assert float(TASK.loss(outputs, changed)) == 0


def test_an_answer_is_not_that_of_a_changed_image() -> None:
    answer = np.ones((4, 4), np.float32)  # as large as the picture, and no map of it
    assert TASK.to_canvas(answer, VIEW) is answer
    assert np.isnan(TASK.mirror(answer, 4)) and np.isnan(
        TASK.crop(answer, Part((4, 4), 0, 0, 2, 2))
    )


def test_description_drawing_and_spec() -> None:
    found = TASK.decode({"embedding.values": np.array([1.0, 3.0])}, VIEW, {})
    told = TASK.describe({"embedding": found})
    assert told == {"shape": [2], "mean": 2.0, "standard_deviation": 1.0}
    assert TASK.describe({"embedding": np.array([np.nan])})["mean"] is None
    big = np.zeros((80, 160, 3), np.uint8)
    assert TASK.draw(big.copy(), {"embedding": found}).any()
    again = build(Raw("a", output="backbone/p3").spec())
    assert again.outputs == ("backbone/p3",) and again.from_reference
