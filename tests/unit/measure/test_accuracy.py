"""Accuracy reports: figures of single classes survive being written and read."""

from __future__ import annotations

import json

import numpy as np

from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Sample
from edgemtl.measure.accuracy import AccuracyReport, TaskAccuracy, evaluate
from edgemtl.tasks import Segmentation


def test_classes_are_written_where_there_are_some_and_read_back() -> None:
    parts = TaskAccuracy({"miou": 0.5}, 3, classes={"floor": 0.5, "door": None})
    depth = TaskAccuracy({"rmse_m": 0.1}, 3)
    report = AccuracyReport({"parts": parts, "depth": depth}, 2)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["classes"] == {"parts": {"floor": 0.5, "door": None}}
    assert AccuracyReport.from_dict(data) == report
    assert "classes" not in AccuracyReport({"depth": depth}, 2).to_dict()


def test_segmentation_reports_every_class_by_name() -> None:
    task = Segmentation("parts", ("floor", "wall", "door"))
    label = np.zeros((4, 8), np.int64)
    label[:, 4:] = 1

    class One:
        name, problems = "one", ()

        def __iter__(self):  # type: ignore[no-untyped-def]
            yield Sample("a", np.zeros((4, 8, 3), np.uint8), {"segmentation": label})

        def __len__(self) -> int:
            return 1

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.zeros((1, 3, 4, 8), np.float32)
        logits[:, 0, :, :6] = 1  # floor on three quarters, door on the rest
        logits[:, 2, :, 6:] = 1
        return {"parts.logits": logits}

    found = evaluate(run, [task], InputSpec((4, 8)), One())  # type: ignore[arg-type]
    # floor: 16 of 24; wall: none of 16; nobody labelled a door
    assert found.tasks["parts"].classes == {"floor": 16 / 24, "wall": 0.0, "door": None}
