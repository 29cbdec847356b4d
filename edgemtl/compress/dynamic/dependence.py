"""Do pictures differ enough for masks of their own? Asked before anything dynamic is built.

Three questions in order; the first "no" ends it, and the simpler network is kept.

1. Tasks: do the tasks' masks differ? (mean Jaccard index below 0.8)
2. Pictures: do masks differ from picture to picture? Per channel with on-rate q the dependence is
   ``4 q (1 - q)``, 0 for a channel that is always on or always off, 1 for one that is on every
   other time; a group's is the mean over its channels. At least 0.1 on groups that hold at least
   30 % of the multiply-accumulates.
3. Clusters: a few prototypes, chosen per picture, have to hold more of the pictures' importance
   than one mask of the same cost. What they can gain at most is told here, on pictures that the
   prototypes were not made from.

What it takes in milliseconds at equal accuracy is measured afterwards (``tools/bench_dynamic.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.cost import CostModel

#: masks of two tasks that overlap more than this are one mask
SAME_TASKS = 0.8
#: a group with less dependence is as well served by one mask
LEAST_DEPENDENCE = 0.1
#: share of the multiply-accumulates that groups above it have to hold
LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Dependence:
    """How much masks depend on the picture.

    Attributes:
        groups: group -> dependence in 0..1.
        shares: group -> share of the network's multiply-accumulates that its channels take part in;
            a layer between two groups counts for both.
        mean: dependence averaged over groups, weighted by these shares.
        dependent_share: share of the work in groups with a dependence of at least 0.1.
    """

    groups: Mapping[str, float]
    shares: Mapping[str, float]
    mean: float
    dependent_share: float

    @property
    def enough(self) -> bool:
        """Whether masks per picture can be worth it at all."""
        return self.dependent_share >= LEAST_SHARE

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "enough": self.enough}


def input_dependence(masks: Mapping[str, Tensor], model: CostModel) -> Dependence:
    """Measure question 2.

    Args:
        masks: group -> (pictures, width) bool.
        model: cost of the network.
    """
    dense = float(model.macs({}))
    groups, shares = {}, {}
    for name, mask in masks.items():
        rate = mask.double().mean(dim=0)
        groups[name] = float((4 * rate * (1 - rate)).mean())
        shares[name] = 1 - float(model.macs({name: mask.shape[1]})) / dense
    total = sum(shares.values())
    high = sum(shares[name] for name, value in groups.items() if value >= LEAST_DEPENDENCE)
    weighted = sum(groups[name] * shares[name] for name in groups)
    return Dependence(groups, shares, weighted / total, high / total)


def task_overlap(masks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """Question 1: Jaccard index of every pair of tasks, averaged over groups that both depend on.

    Args:
        masks: task -> group -> (width,) bool.

    Returns:
        ``"task / task"`` -> index in 0..1; 1 for equal masks.
    """
    names: Sequence[str] = list(masks)
    found = {}
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = masks[first].keys() & masks[second].keys()
            values = []
            for group in sorted(shared):
                a, b = masks[first][group], masks[second][group]
                values.append(float((a & b).sum()) / max(float((a | b).sum()), 1.0))
            if values:
                found[f"{first} / {second}"] = float(torch.tensor(values).mean())
    return found
