"""``eval``: accuracy per task of a checkpoint, an ONNX file or a bundle."""

from __future__ import annotations

from pathlib import Path

from edgemtl.data.calibration import embedded
from edgemtl.data.open import open_dataset
from edgemtl.measure.accuracy import AccuracyReport, evaluate
from edgemtl.pipeline.subject import open_subject


def evaluate_file(
    path: Path,
    data: Path | None,
    split: str,
    layout: str = "auto",
    limit: int | None = None,
    factory: str | None = None,
) -> AccuracyReport:
    """Evaluate a file on a data folder, or on the embedded synthetic set when none is given.

    Raises:
        InputRefused: the file or the data is refused.
        UsageError: no embedded set fits the tasks, or an unknown layout.
    """
    with open_subject(path, factory) as subject:
        kinds = {task.label_kind for task in subject.tasks}
        dataset = embedded(kinds, split) if data is None else open_dataset(data, split, layout)
        if limit is not None and limit < len(dataset):
            dataset = dataset.subset(range(limit))
        return evaluate(subject.run, subject.tasks, subject.input_spec, dataset)
