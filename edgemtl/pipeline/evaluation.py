"""``eval``: accuracy per task of a checkpoint, an ONNX file or a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.open import open_dataset
from edgemtl.data.preprocess import letterbox
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError
from edgemtl.measure.accuracy import AccuracyReport, Run, network_runner
from edgemtl.measure.multiscale import detect_multiscale, network_detector
from edgemtl.measure.wider_protocol import wider_ap
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.datasets import labelled
from edgemtl.pipeline.evaluate import EvaluateRequest, evaluate_model
from edgemtl.pipeline.loaded_model import LoadedModel, kind_of, open_model, read_signature
from edgemtl.pipeline.reference import find_reference
from edgemtl.pipeline.reference_accuracy import reference_accuracy
from edgemtl.tasks.base import Task
from edgemtl.tasks.detection import Detection


@dataclass(frozen=True)
class EvaluateFile:
    """One file, to be measured on labelled pictures.

    Attributes:
        path: checkpoint, ONNX file or bundle.
        data: folders with labelled pictures; the embedded synthetic set without any.
        split: of each.
        layout: a format's name, or ``auto``.
        limit: use only so many pictures, evenly spread.
        factory: ``package.module:function`` of the user's own network, or None.
        reference: dense network to compare with; by default the one that a pruned checkpoint
            records.
    """

    path: Path
    data: Sequence[Path] = ()
    split: str = "val"
    layout: str = "auto"
    limit: int | None = None
    factory: str | None = None
    reference: Path | None = None

    def dataset(self, tasks: Sequence[Task]) -> Dataset:
        """The pictures, with the labels of these tasks.

        Raises:
            InputRefused: a folder or its split is refused.
            UsageError: no embedded set fits the tasks, or an unknown layout.
        """
        return labelled(self.data, self.split, tasks, self.layout, self.limit)


def evaluate_file(asked: EvaluateFile) -> AccuracyReport:
    """Evaluate a file.

    Tasks whose label is the uncompressed network's answer are held against the ``reference``, else
    the dense network that a pruned checkpoint records; a checkpoint that was never pruned is its
    own.

    Raises:
        InputRefused: the file or the data is refused.
        UsageError: no embedded set fits the tasks, or an unknown layout.
    """
    with open_model(asked.path, asked.factory) as loaded:
        dataset = asked.dataset(loaded.tasks)
        answers = _answers(asked, loaded)
        request = EvaluateRequest(
            loaded.run, loaded.tasks, loaded.input_spec, dataset, reference=answers
        )
        return evaluate_model(request).report


def _answers(asked: EvaluateFile, loaded: LoadedModel) -> Run | None:
    """What answers for the uncompressed network, where a task is held against it."""
    if not any(task.from_reference for task in loaded.tasks):
        return None
    path, factory = asked.path, asked.factory
    network = load_network(path, factory) if loaded.kind == "checkpoint" else None
    found = find_reference(path, network, factory, asked.reference, loaded.tasks).reference
    if found is not None:
        return network_runner(found.network, [task.name for task in loaded.tasks])
    return loaded.run if network is not None and not network.pruning else None


@dataclass(frozen=True)
class Comparison:
    """A report beside that of the network it is compared with.

    Attributes:
        report: of the file.
        reference: of its dense network, on the same pictures; None where there is none.
        drops: task -> how much worse its primary figure is, as a share; None where that cannot be
            said.
        note: completes "compared with"; empty where nothing was to be compared.
    """

    report: AccuracyReport
    reference: AccuracyReport | None = None
    drops: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with the reference where there is one."""
        found = self.report.to_dict()
        if self.reference is not None:
            found["reference"] = self.reference.to_dict()
            found["relative_drop"] = dict(self.drops)
        if self.note:
            found["compared_with"] = self.note
        return found


def compare_report(report: AccuracyReport, asked: EvaluateFile) -> Comparison:
    """Hold a file's accuracy against its dense network's on the same pictures.

    Args:
        report: of the file.
        asked: the file, its pictures and the reference.

    Raises:
        InputRefused: the reference is refused.
        UsageError: it lacks a task.
    """
    path, factory = asked.path, asked.factory
    checkpoint = kind_of(path) == "checkpoint"
    if asked.reference is None and not checkpoint:
        return Comparison(report)
    network = load_network(path, factory) if checkpoint else None
    tasks = read_signature(path).tasks if network is None else network.selected(None)
    against = find_reference(path, network, factory, asked.reference, tasks)
    if against.reference is None:
        return Comparison(report, note=against.note)
    dataset = asked.dataset(tasks)
    dense = reference_accuracy(against.reference, [task.name for task in tasks], dataset)
    drops: dict[str, float | None] = {}
    for task in tasks:
        key = task.primary.key
        before, after = (one.tasks[task.name].values.get(key) for one in (dense, report))
        known = before is not None and after is not None and before != 0
        drops[task.name] = task.primary.relative_drop(before or 0, after or 0) if known else None
    return Comparison(report, dense, drops, against.note)


def evaluate_wider(
    path: Path,
    data: Path,
    ground_truth: Path,
    split: str = "val",
    multiscale: bool = False,
    factory: str | None = None,
) -> dict[str, float | None]:
    """WIDER FACE's own protocol: AP on its easy, medium and hard subsets.

    Args:
        path: checkpoint, ONNX file or bundle.
        data: WIDER FACE folder.
        ground_truth: folder with the four .mat files of the evaluation kit.
        split: of the data folder.
        multiscale: ten passes per picture with box voting (MOS, section 6) instead of one
            letterboxed pass; needs a checkpoint, since an artefact takes one size only.
        factory: builds the user's own network.

    Raises:
        UsageError: no detection task, or several scales asked of an artefact.
        InputRefused: file, data or ground truth is refused.
    """
    with open_model(path, factory) as loaded:
        task = next((t for t in loaded.tasks if isinstance(t, Detection)), None)
        if task is None:
            raise UsageError("the network has no detection task", where=str(path))
        if multiscale and loaded.kind != "checkpoint":
            raise UsageError(
                "several scales need a checkpoint: an artefact takes pictures of one size",
                where="--multiscale",
            )
        at_many_sizes = network_detector(loaded.run, task, loaded.input_spec)
        predictions: dict[str, NDArray[np.float32]] = {}
        for sample in open_dataset(data, split, "wider"):
            if multiscale:
                boxes = detect_multiscale(at_many_sizes, sample.image)
            else:
                boxes = _one_pass(loaded, task, sample.image)
            boxes[:, 2:4] -= boxes[:, :2]
            predictions[sample.name] = boxes
    return wider_ap(ground_truth, predictions)


def _one_pass(
    loaded: LoadedModel, task: Detection, image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """(n, 5) x1 y1 x2 y2 score in picture pixels."""
    canvas, view = letterbox(image, loaded.input_spec)
    outputs = {name: value[0] for name, value in loaded.run(canvas[None]).items()}
    found = task.decode(outputs, view, {})
    return np.concatenate([found.boxes, found.scores[:, None]], axis=1)
