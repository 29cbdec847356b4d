"""How far a network's answers are from the dense one's, where nobody labelled anything.

The distance is the mean square of what changed, relative to how much the answers vary from place to
place. Its second derivative at the dense network is a sum of squares of first ones, of which random
signs give an unbiased estimate with one gradient (:func:`probe`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.tasks.base import Task


def distance(
    task: Task, outputs: Mapping[str, Tensor], dense: Mapping[str, Tensor]
) -> NDArray[np.float64]:
    """(B,) how far each picture's answers are apart: 0 for the same, about 1 for unrelated ones."""
    return np.asarray(distances(task, outputs, dense).numpy(), np.float64)


def distances(task: Task, outputs: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> Tensor:
    """The same as a (B,) float64 tensor, through which gradients flow to ``outputs``."""
    found, read = task.read(outputs), task.read(dense)
    total = torch.zeros(len(next(iter(outputs.values()))), dtype=torch.float64)
    for name, (reference, weight) in read.items():
        scale = _scale(reference, weight)
        square = (found[name][0].double() - reference.double()).pow(2) * weight * scale
        total = total + square.flatten(1).sum(dim=1)
    return total / len(read)


def probe(task: Task, outputs: Mapping[str, Tensor], rng: np.random.Generator) -> Tensor:
    """A scalar whose squared gradient, in expectation, is that of the batch's summed distance.

    Args:
        task: whose answers are read.
        outputs: of the dense network, with their graph.
        rng: draws the signs.
    """
    read = task.read(outputs)
    total = torch.zeros(())
    for values, weight in read.values():
        factor = (weight.detach() * _scale(values.detach(), weight.detach()) / len(read)).sqrt()
        signs = torch.from_numpy(rng.integers(0, 2, tuple(values.shape)) * 2 - 1)
        total = total + (values * signs.to(values.dtype) * factor.to(values.dtype)).sum()
    return total


def _scale(values: Tensor, weight: Tensor) -> Tensor:
    """What turns a picture's sum of weighted squares into a share of how much answers vary."""
    values = values.double()
    full = weight.double().expand_as(values)
    mass = full.sum().clamp(min=1e-12)
    mean = (values * full).sum() / mass
    spread = ((values - mean).pow(2) * full).sum() / mass
    return len(values) / (mass * spread.clamp(min=1e-12))
