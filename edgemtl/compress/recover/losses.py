"""The loss of one training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgemtl.compress.answers import distances
from edgemtl.compress.batches import Prepared, targets_of
from edgemtl.compress.recover.records import Verdict
from edgemtl.tasks.base import Task

#: a task's loss weighs 1 + drop / this, within the limits: who is behind pulls harder
DROP_THAT_DOUBLES, LEAST_PULL, MOST_PULL = 0.05, 0.5, 3.0
#: a loss of nothing, to divide by
TINY = 1e-6


def pulls(verdict: Verdict, shares: Mapping[str, float]) -> dict[str, float]:
    """Task -> weight of its loss, from what it lost of what it may lose.

    Args:
        verdict: of the last evaluation.
        shares: what each task may lose beside the others, 1 in the mean.
    """
    return {
        name: min(max(1 + lost / shares[name] / DROP_THAT_DOUBLES, LEAST_PULL), MOST_PULL)
        for name, lost in verdict.lost.items()
    }


def task_losses(
    tasks: Sequence[Task],
    outputs: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    images: Sequence[Prepared],
    answers: float,
    weights: Mapping[str, float],
    scales: dict[str, float],
) -> Tensor:
    """Sum of the tasks' losses, each relative to its own recent size.

    A task's own loss comes with the distance of its answers from the dense network's. Where no
    picture of the batch is labelled for it, that distance is all.

    Args:
        tasks: with these outputs.
        outputs, wanted: of the student and of the dense network, (B, ...) each.
        images: of the batch.
        answers: weight of the distillation of answers.
        weights: task -> weight of its loss; tasks that are not named add nothing.
        scales: task -> recent size of its loss; brought up to date.
    """
    size = tuple(images[0].canvas.shape[1:])
    total = torch.zeros(())
    for task in tasks:
        targets = targets_of(images, task, (size[0], size[1]))
        own = task.loss(outputs, targets)
        labelled = float(own.detach()) != 0
        if not labelled:
            own = distances(task, outputs, wanted).mean().float()
        value, key = float(own.detach()), task.name if labelled else f"{task.name} without labels"
        if value > 0:
            scales[key] = 0.98 * scales.get(key, value) + 0.02 * value
        if task.name not in weights:
            continue
        if labelled:
            own = own + answers * task.distil(outputs, wanted, targets)
        # Divided by its own recent size every task pulls equally, as under learned
        # uncertainties at their optimum.
        total = total + weights[task.name] * own / max(scales.get(key, 1.0), TINY)
    return total
