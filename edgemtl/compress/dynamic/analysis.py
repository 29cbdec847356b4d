"""Measure whether dynamic masks can be worth it for a network and its pictures, and say so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Prepared, batches
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.cost import CostModel
from edgemtl.compress.dynamic.accounting import cost_model, observe
from edgemtl.compress.dynamic.dependence import (
    SAME_TASKS,
    Dependence,
    input_dependence,
    task_overlap,
)
from edgemtl.compress.dynamic.network import DynamicNetwork
from edgemtl.compress.dynamic.prototypes import TINY, Prototypes, held, make_prototypes
from edgemtl.compress.dynamic.sites import mask_sites
from edgemtl.compress.dynamic.subnets import losses, subnet
from edgemtl.compress.dynamic.targets import target_mask
from edgemtl.compress.taylor import taylor_scores
from edgemtl.models.base import MultiTaskNetwork

_log = logging.getLogger(__name__)

#: pictures per batch of all passes
BATCH = 8
SALIENCY_BATCH = 4
#: prototypes have to take so much of the loss that one mask of equal cost adds, or they are not
#: worth a router and several files; what is below is noise of the held-out pictures
LEAST_GAIN = 0.1


@dataclass(frozen=True)
class AnalyseOptions:
    """What is tried.

    Attributes:
        kept: share of the multiply-accumulates that prototypes and the one mask get.
        prototypes: how many.
        threshold: share of importance that a picture's own mask holds, for the dependence.
        multiple: of widths.
        nested: whether prototypes are nested widths.
        seed: of clusters.
    """

    kept: float = 0.75
    prototypes: int = 3
    threshold: float = 0.9
    multiple: int = 16
    nested: bool = False
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Analysis:
    """Answers to the three questions of ``dependence.py``.

    Attributes:
        overlap: pair of tasks -> Jaccard index of their masks.
        dependence: of masks on the picture, channels weighted by what they matter to the tasks.
        dependence_of_mass: the same of the published masks, of activation mass alone.
        held_static, held_prototypes, held_own: mean share of the held-out pictures' importance that
            one mask, the best of the prototypes, and each picture's own channels hold, all of the
            same mean cost.
        added_static, added_prototypes: task -> by how much its held-out loss grows, relative to the
            dense network's, when one mask, or each picture's best prototype, is cut and calibrated
            (not trained).
        mean_macs_static, mean_macs_prototypes: on the held-out pictures, relative to dense.
        options: what was asked.
        notes: what the reader must know.
    """

    overlap: Mapping[str, float]
    dependence: Dependence
    dependence_of_mass: Dependence
    held_static: float
    held_prototypes: float
    held_own: float
    added_static: Mapping[str, float]
    added_prototypes: Mapping[str, float]
    mean_macs_static: float
    mean_macs_prototypes: float
    options: AnalyseOptions
    notes: tuple[str, ...] = ()

    @property
    def per_task(self) -> bool:
        """Whether tasks differ enough for masks (or presets) per requested set."""
        values = list(self.overlap.values())
        return bool(values) and sum(values) / len(values) < SAME_TASKS

    @property
    def gain(self) -> float:
        """Share of the worst task's added loss that prototypes take away; negative is a loss."""
        static = max(self.added_static.values())
        return (static - max(self.added_prototypes.values())) / static if static > 0 else 0.0

    @property
    def worth_it(self) -> bool:
        """Whether to go on to prototypes and a router."""
        return self.dependence.enough and self.gain >= LEAST_GAIN

    def sentence(self) -> str:
        """The decision in one sentence."""
        if not self.dependence.enough:
            return (
                f"keep the simpler network: masks hardly depend on the picture "
                f"({self.dependence.dependent_share:.0%} of the work is in groups that do)"
            )
        if not self.worth_it:
            return (
                "keep the simpler network: masks differ between pictures, but at equal cost "
                f"prototypes take {self.gain:+.0%} of the loss that one mask adds "
                f"(at least {LEAST_GAIN:.0%} is asked for)"
            )
        return (
            f"prototypes are worth trying: at equal cost they take {self.gain:.0%} of the loss "
            "that one mask adds"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **asdict(self),
            "dependence": self.dependence.to_dict(),
            "dependence_of_mass": self.dependence_of_mass.to_dict(),
            "per_task": self.per_task,
            "gain": self.gain,
            "worth_it": self.worth_it,
            "decision": self.sentence(),
        }


class MaskableNetwork:
    """A network with what every step needs: groups, sites, cost, task weights.

    Args:
        network: with its family's exact folds applied; left as it is.
        calibration: pictures for saliency.
    """

    def __init__(self, network: MultiTaskNetwork, calibration: Sequence[Prepared]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.groups: tuple[ChannelGroup, ...] = channel_groups(network)
        self.model: CostModel = cost_model(network, self.groups)
        self.dynamic = DynamicNetwork(network, mask_sites(network, self.groups))
        size = network.input_spec.size
        masked = MaskedNetwork(network, self.groups)
        parts = batches(calibration, network.tasks, size, SALIENCY_BATCH)
        scores = taylor_scores(masked, masked.gates(True), network.tasks, parts)
        #: group -> (tasks, width), mean 1 per task: what each channel matters to each task
        self.weights: dict[str, Tensor] = {}
        for site in self.dynamic.sites:
            value = torch.from_numpy(scores[site.name]).float()
            self.weights[site.name] = value / value.mean(dim=1, keepdim=True).clamp_min(1e-12)
        self.dynamic.remove()

    def importance(
        self, images: Sequence[Prepared], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Group -> (pictures, width): activation mass times the weight of the neediest task."""
        return self.weighted(self.mass(images), tasks)

    def weighted(
        self, mass: Mapping[str, Tensor], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Mass times, per channel, the largest weight of the requested tasks (all by default)."""
        names = [task.name for task in self.network.tasks]
        rows = [i for i, name in enumerate(names) if tasks is None or name in tasks]
        return {name: v * self.weights[name][rows].amax(dim=0) for name, v in mass.items()}

    def mass(self, prepared: Sequence[Prepared]) -> dict[str, Tensor]:
        """Group -> (pictures, width) activation mass."""
        dynamic = DynamicNetwork(self.network, self.dynamic.sites)
        try:
            images = [b.images for b in self.batches(prepared)]
            mass = observe(dynamic, images)
        finally:
            dynamic.remove()
        return {name: value[: len(prepared)] for name, value in mass.items()}

    def batches(self, images: Sequence[Prepared]) -> Any:
        """Pictures with targets, in batches."""
        return batches(images, self.network.tasks, self.network.input_spec.size, BATCH)


class Observed:
    """What pictures do in a network; measured once for any number of analyses.

    Args:
        maskable: the network.
        calibration: pictures that masks are made from.
        held_out: other pictures, that they are judged on.

    Attributes:
        mass: group -> (calibration pictures, width) activation mass.
        importance: the same times what each channel matters to the neediest task.
        others: importance on the held-out pictures.
        dense: (held-out pictures, tasks) losses of the whole network.
    """

    def __init__(
        self,
        maskable: MaskableNetwork,
        calibration: Sequence[Prepared],
        held_out: Sequence[Prepared],
    ) -> None:
        self.maskable, self.held_out = maskable, held_out
        self.images = [batch.images for batch in maskable.batches(calibration)]
        self.mass = maskable.mass(calibration)
        self.importance = maskable.weighted(self.mass)
        self.others = maskable.importance(held_out)
        self.dense = losses(maskable.network, maskable.batches(held_out))


def analyse(
    observed: Observed,
    options: AnalyseOptions,
) -> Analysis:
    """Answer the three questions.

    Args:
        observed: the network and what its pictures do in it.
        options: see :class:`AnalyseOptions`.

    Raises:
        UsageError: the budget cannot be met.
    """
    maskable, others = observed.maskable, observed.others
    found = {
        count: make_prototypes(
            observed.importance,
            maskable.groups,
            maskable.model,
            count=count,
            kept=options.kept,
            multiple=options.multiple,
            nested=options.nested,
            seed=options.seed,
        )
        for count in {1, options.prototypes}
    }
    static, several = found[1], found[options.prototypes]
    added, macs = {}, {}
    for name, made in (("static", static), ("prototypes", several)):
        _log.info(
            f"{name}: {len(made.keep)} network(s), {made.mean_macs / _dense(maskable):.0%} of MACs"
        )
        nearest = made.nearest(others)
        chosen = _losses_of(observed, made, nearest)
        added[name] = _relative(maskable.network, observed.dense, chosen)
        macs[name] = float(np.asarray(made.macs)[nearest].mean()) / _dense(maskable)
    own = {n: target_mask(v, several.threshold or 1e-3, "cover") for n, v in others.items()}
    notes = (
        ()
        if len(several.keep) == options.prototypes
        else (f"only {len(several.keep)} different prototypes were found",)
    )
    return Analysis(
        task_overlap(_task_masks(maskable, options.threshold)),
        _dependence(maskable, observed.importance, options.threshold),
        _dependence(maskable, observed.mass, options.threshold),
        float(held(static.keep, others).max(axis=0).mean()),
        float(held(several.keep, others).max(axis=0).mean()),
        _held_by_own(own, others),
        added["static"],
        added["prototypes"],
        macs["static"],
        macs["prototypes"],
        options,
        notes,
    )


def _dependence(
    maskable: MaskableNetwork, importance: Mapping[str, Tensor], threshold: float
) -> Dependence:
    masks = {name: target_mask(v, threshold, "cover") for name, v in importance.items()}
    return input_dependence(masks, maskable.model)


def _dense(maskable: MaskableNetwork) -> float:
    return float(maskable.model.macs({}))


def _task_masks(maskable: MaskableNetwork, threshold: float) -> dict[str, dict[str, Tensor]]:
    """Task -> group -> mask that holds the threshold's share of its saliency."""
    found: dict[str, dict[str, Tensor]] = {}
    for row, task in enumerate(maskable.network.tasks):
        found[task.name] = {
            site.name: target_mask(maskable.weights[site.name][row][None], threshold, "cover")[0]
            for site in maskable.dynamic.sites
            if task.name in site.tasks
        }
    return found


def _held_by_own(masks: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> float:
    shares = []
    for name, value in importance.items():
        total = value.sum(dim=1)
        share = (value * masks[name]).sum(dim=1) / total.clamp_min(TINY)
        shares.append(torch.where(total > 0, share, 1.0).mean())
    return float(torch.stack(shares).mean())


def _losses_of(
    observed: Observed, made: Prototypes, nearest: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(pictures, tasks) loss of each held-out picture in its prototype.

    Statistics come from all calibration pictures: without training, those of one cluster alone
    would normalise away what the network tells the clusters apart by.
    """
    maskable = observed.maskable
    result = np.zeros(observed.dense.shape)
    for index, keep in enumerate(made.keep):
        mine = np.flatnonzero(nearest == index)
        if len(mine):
            network = subnet(maskable.network, keep, maskable.groups, observed.images)
            own = [observed.held_out[i] for i in mine.tolist()]
            result[mine] = losses(network, maskable.batches(own))
    return result


def _relative(
    network: MultiTaskNetwork, dense: NDArray[np.float64], now: NDArray[np.float64]
) -> dict[str, float]:
    """Task -> growth of its mean loss over the pictures that have its label."""
    found = {}
    for column, task in enumerate(network.tasks):
        labelled = dense[:, column] != 0
        if labelled.any():
            before = float(dense[labelled, column].mean())
            found[task.name] = float(now[labelled, column].mean()) / before - 1
    return found
