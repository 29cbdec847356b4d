"""``edgemtl.evaluate``: accuracy per task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgemtl.api.asking import (
    AnyPath,
    Data,
    Factory,
    factory_of,
    folders,
    optional_path,
    path_of,
)
from edgemtl.api.outcome import TaskResult, task_result
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.pipeline.evaluation import EvaluateFile, compare_report, evaluate_file
from edgemtl.pipeline.loaded_model import read_signature
from edgemtl.progress import ProgressCallback, listening
from edgemtl.report.texttables import TextRow, TextTable, aligned


@dataclass(frozen=True)
class Evaluated:
    """Accuracy per task on one data set.

    Attributes:
        tasks: task -> its figure, beside that of the network it is compared with, if any.
        images: pictures evaluated.
        data: name of the data set.
        protocol: how pictures entered the network.
        skipped: a sentence per picture or label that could not be used.
        compared_with: what ``reference`` is; empty without one.
        report: everything that was measured.
    """

    tasks: Mapping[str, TaskResult]
    images: int
    data: str
    protocol: str
    skipped: tuple[str, ...]
    compared_with: str
    report: AccuracyReport = field(repr=False)

    def __str__(self) -> str:
        compared = any(task.reference is not None for task in self.tasks.values())
        cells = [task.cells() for task in self.tasks.values()]
        if compared:
            headers: tuple[str, ...] = ("task", "figure", "before", "after", "change")
            rows = [TextRow(row, "none") for row in cells]
        else:
            headers = ("task", "figure", "value")
            rows = [TextRow((*row[:2], row[3]), "none") for row in cells]
        table = TextTable(headers, tuple(rows), tuple(range(2, len(headers))))
        told = [f"{self.images} pictures of {self.data}, {self.protocol}", *aligned(table)]
        told += [f"{task.name}: {task.note}" for task in self.tasks.values() if task.note]
        if self.compared_with:
            told.append(f"compared with {self.compared_with}")
        if self.skipped:
            told.append(f"{len(self.skipped)} not used, the first: {self.skipped[0]}")
        return "\n".join(told)


def evaluate(
    model: AnyPath,
    data: Data = None,
    *,
    split: str = "val",
    layout: str = "auto",
    limit: int | None = None,
    reference: AnyPath | None = None,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Evaluated:
    """Measure accuracy per task.

    Args:
        model: checkpoint, ONNX file that EdgeMTL wrote, or bundle.
        data: folders with labelled pictures; the embedded synthetic set by default.
        split: of the folders.
        layout: of the folders; detected by default.
        limit: use only so many pictures, evenly spread.
        reference: dense checkpoint to compare with; by default the one that a pruned checkpoint
            names, if it is found.
        factory: as for :func:`edgemtl.load_model`.
        progress: is told how many pictures are through.

    Raises:
        InputRefused: the model, the reference or the data is refused.
        UsageError: no embedded set fits the tasks, or the reference lacks one.
        TargetUnavailable: the runtime of a bundle does not work here.
    """
    place, made_by, roots = path_of(model), factory_of(factory, model), folders(data)
    asked = EvaluateFile(
        place, roots, split, layout, limit, made_by, reference=optional_path(reference)
    )
    with listening(progress):
        report = evaluate_file(asked)
        found = compare_report(report, asked)
    dense = found.reference
    tasks = {}
    for task in read_signature(place, made_by).tasks:
        if (one := report.tasks.get(task.name)) is None:
            continue
        before = None if dense is None else dense.tasks[task.name].values
        tasks[task.name] = task_result(
            task.name, task.primary, one.values, before, one.count, one.note
        )
    return Evaluated(
        tasks, report.images, report.data, report.protocol, report.skipped, found.note, report
    )
