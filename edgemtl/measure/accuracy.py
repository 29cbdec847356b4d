"""Accuracy per task of anything that maps a batch of pictures to raw outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Dataset, Sample
from edgemtl.errors import InputRefused
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.diagnostics import meaning, raised
from edgemtl.progress import Progress, report
from edgemtl.tasks.base import Metric, Task

#: (1, 3, H, W) float32 -> output name -> (1, ...) float32
Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class TaskAccuracy:
    """What one task reached.

    Attributes:
        values: figure -> value, None where there was nothing to measure.
        count: labelled items measured.
        note: why a value is None, or what a reader must know.
        classes: class -> its own figure, None for a class without labels; empty for tasks without
            classes.
    """

    values: Mapping[str, float | None]
    count: int
    note: str = ""
    classes: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class AccuracyReport:
    """Accuracy per task on one data set.

    Attributes:
        tasks: task name -> figures.
        images: pictures evaluated.
        skipped: one sentence per picture or label that could not be used.
        data: name of the data set.
        protocol: how pictures entered the network.
        of: whose accuracy this is, where others are compared with it and that needs saying.
    """

    tasks: Mapping[str, TaskAccuracy]
    images: int
    skipped: tuple[str, ...] = ()
    data: str = ""
    protocol: str = ""
    of: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: ``{"tasks": {name: {figure: value}}, "images": N, ...}``."""
        classes = {name: dict(task.classes) for name, task in self.tasks.items() if task.classes}
        return {
            "tasks": {name: dict(task.values) for name, task in self.tasks.items()},
            **({"classes": classes} if classes else {}),
            "images": self.images,
            "counts": {name: task.count for name, task in self.tasks.items()},
            "notes": {name: task.note for name, task in self.tasks.items() if task.note},
            "skipped": list(self.skipped),
            "data": self.data,
            "protocol": self.protocol,
            **({"of": self.of} if self.of else {}),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> AccuracyReport:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: fields are missing or of the wrong type.
        """
        try:
            tasks = {
                str(name): TaskAccuracy(
                    _figures(values),
                    int(data["counts"][name]),
                    str(data.get("notes", {}).get(name, "")),
                    _figures(data.get("classes", {}).get(name, {})),
                )
                for name, values in data["tasks"].items()
            }
            return AccuracyReport(
                tasks,
                int(data["images"]),
                tuple(str(line) for line in data.get("skipped", ())),
                str(data.get("data", "")),
                str(data.get("protocol", "")),
                str(data.get("of", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"an accuracy report is not readable: {error!r}") from error


def _figures(data: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(key): None if value is None else float(value) for key, value in data.items()}


def network_runner(network: MultiTaskNetwork, tasks: Sequence[str] | None = None) -> Run:
    """Run a torch network (in eval mode) on NumPy pictures, without gradients."""
    network.eval()

    def run(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(images), tasks)
        return {name: value.float().numpy() for name, value in outputs.items()}

    return run


def decode_all(
    tasks: Sequence[Task], outputs: Mapping[str, NDArray[np.float32]], view: Any
) -> dict[str, Any]:
    """Decode one picture's raw outputs (no batch axis) for all tasks, in dependency order."""
    decoded: dict[str, Any] = {}
    pending = list(tasks)
    while pending:
        ready = [t for t in pending if all(name in decoded for name in t.requires)]
        if not ready:
            names = ", ".join(t.name for t in pending)
            raise InputRefused(f"tasks {names} require tasks that are not evaluated")
        for task in ready:
            decoded[task.name] = task.decode(outputs, view, decoded)
        pending = [t for t in pending if t.name not in decoded]
    return decoded


def evaluate(
    run: Run,
    tasks: Sequence[Task],
    input_spec: InputSpec,
    dataset: Dataset,
    reference: Run | None = None,
) -> AccuracyReport:
    """Measure every task on a data set, one letterboxed picture at a time.

    Args:
        run: the network in any form.
        tasks: tasks to measure, with those they require.
        input_spec: the network's input.
        dataset: labelled pictures; those that do not decode are counted and named.
        reference: the uncompressed network, for tasks whose label is what that answers; it runs
            only where there are such tasks. Without it they are not measured.

    Raises:
        InputRefused: no picture of the data set decodes.
    """
    part = measure(run, tasks, input_spec, dataset, reference)
    return accuracy_of([part], input_spec, dataset.name)


@dataclass(frozen=True)
class Part:
    """What was found on some pictures of a data set.

    Attributes:
        metrics: task name -> its metric, which has seen these pictures.
        images: how many.
        lost: of these, how many a diagnostic of the network's own says is wrong.
        problems: what could not be used.
    """

    metrics: Mapping[str, Metric]
    images: int
    lost: int
    problems: tuple[str, ...]


def measure(
    run: Run,
    tasks: Sequence[Task],
    input_spec: InputSpec,
    dataset: Dataset,
    reference: Run | None = None,
) -> Part:
    """Let every task's metric see the pictures; arguments as for :func:`evaluate`."""
    metrics = {task.name: task.new_metric() for task in tasks}
    held = [task for task in tasks if task.from_reference]
    images = lost = 0
    for sample in dataset:
        canvas, view = letterbox(sample.image, input_spec)
        outputs = run(canvas[None])
        if held and reference is not None:
            answers = {name: value[0] for name, value in reference(canvas[None]).items()}
            known = {task.label_kind: task.decode(answers, view, {}) for task in held}
            sample = Sample(sample.name, sample.image, {**sample.labels, **known})
        lost += bool(raised(outputs))
        decoded = decode_all(tasks, {name: v[0] for name, v in outputs.items()}, view)
        for metric in metrics.values():
            metric.update(decoded, sample)
        images += 1
        report(Progress("accuracy", images, len(dataset), "pictures"))
    return Part(metrics, images, lost, tuple(dataset.problems))


def accuracy_of(parts: Sequence[Part], input_spec: InputSpec, data: str) -> AccuracyReport:
    """The accuracy over all parts of a data set, which are given in the order of its pictures.

    It is that of one pass over all pictures, to the last bit. The first part's metrics take what
    the others found.

    Args:
        parts: at least one.
        input_spec: the network's input.
        data: name of the data set.

    Raises:
        InputRefused: no picture of any part decodes.
    """
    metrics = parts[0].metrics
    for part in parts[1:]:
        for name, metric in metrics.items():
            metric.add(part.metrics[name].state())
    images, lost = sum(part.images for part in parts), sum(part.lost for part in parts)
    # A broken picture that several parts, or one part twice, have met is named once.
    skipped = tuple(dict.fromkeys(line for part in parts for line in part.problems))
    if images == 0:
        raise InputRefused(f"no picture could be read ({'; '.join(skipped[:3])})", where=data)
    height, width = input_spec.size
    results = {name: metric.result() for name, metric in metrics.items()}
    beyond = f"{lost} of {images} pictures {meaning()}" if lost else ""
    return AccuracyReport(
        {
            name: TaskAccuracy(
                r.values, r.count, "; ".join(filter(None, (r.note, beyond))), r.classes
            )
            for name, r in results.items()
        },
        images,
        skipped,
        data,
        f"pictures letterboxed to {height}x{width}",
    )
