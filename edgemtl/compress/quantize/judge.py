"""What a quantised graph loses: per task on labelled pictures, and per region on a few."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgemtl.compress.batches import targets_of
from edgemtl.compress.quantize.images import Canvases
from edgemtl.compress.quantize.results import TaskVerdict
from edgemtl.compress.quantize.simulate import simulation
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.measure.accuracy import evaluate
from edgemtl.progress import Progress, report
from edgemtl.tasks.base import Task

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

#: a graph to the same one as a runtime reads it
AsRun = Callable[["ModelProto"], "ModelProto"]


def as_written(model: ModelProto) -> ModelProto:
    """The graph itself."""
    return model


class Judge:
    """Measures the tasks' primary figures on held-out pictures, and compares with the float graph.

    Args:
        reference: the float32 graph.
        tasks: what to measure.
        input_spec: the network's input.
        dataset: labelled pictures that were not calibrated on.
        budgets: task name -> largest relative drop.
        as_run: what the runtime makes of a graph before it computes it.

    Attributes:
        evaluations: runs over the data set so far.
    """

    def __init__(
        self,
        reference: ModelProto,
        tasks: Sequence[Task],
        input_spec: InputSpec,
        dataset: Dataset,
        budgets: Mapping[str, float],
        as_run: AsRun = as_written,
    ) -> None:
        self.evaluations = 0
        self._as_run = as_run
        self._tasks, self._spec, self._dataset = tasks, input_spec, dataset
        self._budgets = budgets
        held = any(task.from_reference for task in tasks)
        self._reference = simulation(as_run(reference)) if held else None
        self._before = self._measure(reference)

    def _measure(self, model: ModelProto) -> dict[str, tuple[float | None, str]]:
        self.evaluations += 1
        run = simulation(self._as_run(model))
        report = evaluate(run, self._tasks, self._spec, self._dataset, self._reference)
        return {
            task.name: (
                report.tasks[task.name].values.get(task.primary.key),
                report.tasks[task.name].note,
            )
            for task in self._tasks
        }

    def __call__(self, model: ModelProto) -> dict[str, TaskVerdict]:
        """Measure a graph."""
        after = self._measure(model)
        verdicts = {}
        for task in self._tasks:
            old, why = self._before[task.name]
            new, why_new = after[task.name]
            drop = None
            if old is not None and new is not None:
                drop = task.primary.relative_drop(old, new)
            note = why or why_new
            if drop is None and not note:
                note = "nothing to measure"
            verdicts[task.name] = TaskVerdict(
                task.primary.key, old, new, drop, self._budgets.get(task.name), note
            )
        return verdicts


def region_costs(
    reference: ModelProto,
    variants: Mapping[str, Callable[[], ModelProto]],
    tasks: Sequence[Task],
    probes: Canvases,
    size: tuple[int, int],
) -> dict[str, dict[str, float]]:
    """How far each variant's answers are from the float graph's, per task.

    Args:
        reference: the float32 graph.
        variants: name -> what makes a graph to compare; one is in memory at a time.
        tasks: whose answers count.
        probes: pictures; their labels say where an answer means something.
        size: canvas height and width.

    Returns:
        Variant -> task -> mean distance, 0 for equal answers.
    """
    targets = {task.name: [targets_of([p], task, size) for p in probes.prepared] for task in tasks}
    names = [name for task in tasks for name in task.outputs]

    def answers(model: ModelProto) -> list[dict[str, torch.Tensor]]:
        run = simulation(model, names)
        return [
            {name: torch.from_numpy(value) for name, value in run(image).items()}
            for image in probes
        ]

    wanted = answers(reference)
    costs: dict[str, dict[str, float]] = {}
    for number, (name, make) in enumerate(variants.items()):
        report(Progress("costs of regions", number, len(variants), "regions"))
        if number % 20 == 0:
            _log.info(f"costs of {len(variants)} regions: {number}")
        found = answers(make())
        costs[name] = {
            task.name: float(
                np.mean(
                    [
                        float(task.distil(mine, theirs, targets[task.name][index]))
                        for index, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
                    ]
                )
            )
            for task in tasks
        }
    return costs
