"""What masks cost, counted honestly, and what they will cost before anything is trained.

Counted per picture: every weight's work at the widths that are on, depthwise layers with the
channels they follow, streams of residual networks dense, the heads themselves on top. These are
multiply-accumulates, no times: nothing that multiplies by masks runs faster for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.cost import CostModel
from edgemtl.compress.dynamic.network import DynamicNetwork
from edgemtl.compress.dynamic.targets import Rule, cumulated_mass, mask_at
from edgemtl.compress.work import count_work
from edgemtl.errors import UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import example_images

#: steps of the bisection of a threshold: 2^-12 of its range
BISECTIONS = 12


def cost_model(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> CostModel:
    """The network's cost as a function of its widths, at one picture per batch."""
    return CostModel(network, groups, count_work(network, example_images(network)), 1)


def sample_macs(
    model: CostModel, masks: Mapping[str, Tensor], head_macs: float = 0.0
) -> NDArray[np.float64]:
    """(B,) multiply-accumulates of each picture.

    Args:
        model: of the network that is masked.
        masks: group -> (B, width) bool.
        head_macs: of the heads, added to each.
    """
    removed = {name: (~mask).sum(dim=1).double().numpy() for name, mask in masks.items()}
    found = np.asarray(model.macs(removed), np.float64)
    return found + head_macs


@dataclass(frozen=True)
class Estimate:
    """What masks of a threshold cost, from the dense network's activations.

    Attributes:
        threshold: share of the mass.
        kept: mean share of multiply-accumulates, heads included.
        kept_p95: share that 95 % of the pictures stay below.
        widths: group -> mean number of channels on.
    """

    threshold: float
    kept: float
    kept_p95: float
    widths: Mapping[str, float]


class Estimator:
    """Costs of thresholds from one pass over calibration pictures and one sort per group.

    Training moves activations, so this is an estimate; ``docs/dynamic.md`` has what it was off by.

    Args:
        dynamic: the network with (untrained) heads; it is run dense.
        batches: (B, 3, H, W) pictures.
        model: cost of the network.
    """

    def __init__(
        self, dynamic: DynamicNetwork, batches: Sequence[Tensor], model: CostModel
    ) -> None:
        self._model, self._head_macs = model, dynamic.head_macs
        self._dense = float(np.asarray(model.macs({})))
        self._options = dynamic.options
        self.mass = observe(dynamic, batches)
        self._sorted = {name: cumulated_mass(mass) for name, mass in self.mass.items()}

    def masks(self, threshold: float, rule: Rule | None = None) -> dict[str, Tensor]:
        """Group -> (pictures, width) bool, the targets at a threshold."""
        options = self._options
        return {
            name: mask_at(order, cumulated, threshold, rule or options.rule, options.minimum)
            for name, (order, cumulated) in self._sorted.items()
        }

    def at(self, threshold: float) -> Estimate:
        """Cost at a threshold."""
        masks = self.masks(threshold)
        share = sample_macs(self._model, masks, self._head_macs) / self._dense
        widths = {name: float(mask.sum(dim=1).double().mean()) for name, mask in masks.items()}
        return Estimate(threshold, float(share.mean()), float(np.percentile(share, 95)), widths)

    def threshold_for(self, kept: float) -> Estimate:
        """The highest threshold whose mean cost is within a budget.

        Args:
            kept: share of the dense network's multiply-accumulates, heads included.

        Raises:
            UsageError: not even the lowest threshold gets there.
        """
        low, high = 0.0, 1.0
        lowest = self.at(1e-6)
        if lowest.kept > kept:
            raise UsageError(
                f"a budget of {kept:.3f} cannot be reached, masks leave {lowest.kept:.3f} at least",
                hint="prune first, or ask for more",
            )
        if self.at(1.0).kept <= kept:
            return self.at(1.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle).kept <= kept else (low, middle)
        return self.at(max(low, 1e-6))


@torch.no_grad()
def observe(dynamic: DynamicNetwork, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Group -> (pictures, width) activation mass of the dense network."""
    found: dict[str, list[Tensor]] = {site.name: [] for site in dynamic.sites}
    mode, training = dynamic.mode, dynamic.training
    dynamic.mode = "dense"
    dynamic.eval()
    try:
        for images in batches:
            dynamic(images)
            for name, mass in dynamic.seen.mass.items():
                found[name].append(mass)
    finally:
        dynamic.mode = mode
        dynamic.train(training)
    return {name: torch.cat(parts) for name, parts in found.items()}
