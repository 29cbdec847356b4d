"""Which channels matter to which task: first-order Taylor scores of channel gates.

The score of channel ``c`` for task ``t`` is ``E |dL_t / dg_c|`` at gate ``g_c = 1`` over batches of
pictures (Molchanov et al., CVPR 2019, with a gate in place of the weight): how much the loss would
rise, to first order, if the gate closed. A group's gate stands at all its members, so its score
already is the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Batch
from edgemtl.progress import Progress, report
from edgemtl.tasks.base import Task

#: group -> (tasks, width) scores
Scores = dict[str, NDArray[np.float64]]


def taylor_scores(
    run: Callable[[Tensor], dict[str, Tensor]],
    gates: Mapping[str, Tensor],
    tasks: Sequence[Task],
    batches: Sequence[Batch],
) -> Scores:
    """Scores of every channel of every group for every task.

    Args:
        run: the network with gates, differentiable: images -> outputs.
        gates: group -> (width,) the gate tensors that ``run`` multiplies with; leaves that require
            gradients.
        tasks: whose losses are differentiated.
        batches: pictures with targets.
    """
    names = list(gates)
    scores = {name: np.zeros((len(tasks), len(gates[name]))) for name in names}
    counts = np.zeros(len(tasks))
    for done, batch in enumerate(batches):
        outputs = run(batch.images)
        for row, task in enumerate(tasks):
            own = {name: outputs[name] for name in task.outputs}
            loss = task.loss(own, batch.whole[task.name])
            if not loss.requires_grad or float(loss.detach()) == 0.0:
                continue
            counts[row] += 1
            found = torch.autograd.grad(
                loss, [gates[name] for name in names], retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    scores[name][row] += gradient.abs().double().numpy()
        report(Progress("importance of channels", done + 1, len(batches), "batches"))
    return {name: value / np.maximum(counts, 1)[:, None] for name, value in scores.items()}


def keep_most_important(importance: NDArray[np.float64], alive: Tensor, width: int) -> Tensor:
    """(total,) bool mask of the ``width`` most important channels among those alive.

    Equal channels go in order of their index, so that the result is the same everywhere.
    """
    index = np.flatnonzero(alive.numpy())
    order = index[np.argsort(-importance[index], kind="stable")]
    keep = torch.zeros(len(importance), dtype=torch.bool)
    keep[torch.from_numpy(order[:width].copy())] = True
    return keep
