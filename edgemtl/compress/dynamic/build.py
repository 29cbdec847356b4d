"""Prototypes, a network each, and the router that chooses between them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgemtl.compress.batches import Prepared, prepare
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.dynamic.analysis import AnalyseOptions, MaskableNetwork
from edgemtl.compress.dynamic.prototypes import Prototypes, make_prototypes
from edgemtl.compress.dynamic.router import (
    Router,
    RouterOptions,
    RouterReport,
    judge,
    probabilities,
    train_router,
)
from edgemtl.compress.dynamic.subnets import subnet
from edgemtl.compress.recover import RecoverOptions, RecoverResult, recover
from edgemtl.data.samples import Dataset
from edgemtl.errors import StageFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork

_log = logging.getLogger(__name__)

#: pictures that batch norms are calibrated on, at most
CALIBRATION = 64
#: a prototype that fewer pictures need is left out, and fewer do not judge one
FEWEST = 8


@dataclass(frozen=True)
class BuildOptions:
    """How prototypes are made.

    Attributes:
        masks: how they are chosen.
        router: how the router learns.
        router_images: training pictures that the router and the prototypes learn from.
        recovery: how each prototype is trained; None for batch statistics alone.
        shared: train batch norms and biases only, so that all networks share their weights.
    """

    masks: AnalyseOptions = field(default_factory=AnalyseOptions)
    router: RouterOptions = field(default_factory=RouterOptions)
    router_images: int = 400
    recovery: RecoverOptions | None = None
    shared: bool = False


@dataclass(frozen=True)
class Routed:
    """A routed set.

    Attributes:
        full: answers what the router is not sure about.
        prototypes: networks, cheapest first.
        router: chooses.
        report: how well, on held-out pictures.
        shares: of the held-out pictures that go to the full network and to each prototype.
        macs: of the full network and each prototype.
        made: the masks.
        recovered: of each prototype, if it was trained.
    """

    full: MultiTaskNetwork
    prototypes: tuple[MultiTaskNetwork, ...]
    router: Router
    report: RouterReport
    shares: tuple[float, ...]
    macs: tuple[float, ...]
    made: Prototypes
    recovered: tuple[RecoverResult | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "router": self.report.to_dict(),
            "shares": list(self.shares),
            "macs": list(self.macs),
            "mean_macs": float(np.dot(self.shares, self.macs)),
            "threshold": self.made.threshold,
            "nested": self.made.nested,
            "widths": [{n: int(m.sum()) for n, m in keep.items()} for keep in self.made.keep],
            "recovered": [None if r is None else r.to_dict() for r in self.recovered],
        }


def build(
    maskable: MaskableNetwork,
    data: DataSplits,
    calibration: Sequence[Prepared],
    held_out: Sequence[Prepared],
    options: BuildOptions,
    state: Path | None = None,
) -> Routed:
    """Make the prototypes and the router.

    Args:
        maskable: the network.
        data: training pictures; ``recovery`` is where router and prototypes learn.
        calibration: prepared pictures that the masks are made from.
        held_out: prepared pictures that the router is judged on.
        options: see :class:`BuildOptions`.
        state: folder in which killed trainings go on.

    Raises:
        UsageError: there are no training pictures, or the budget cannot be met.
        StageFailed: one mask is the best for all pictures.
    """
    if data.recovery is None:
        raise UsageError("prototypes need training pictures")
    made = make_prototypes(
        maskable.importance(calibration),
        maskable.groups,
        maskable.model,
        count=options.masks.prototypes,
        kept=options.masks.kept,
        multiple=options.masks.multiple,
        nested=options.masks.nested,
        seed=options.masks.seed,
    )
    chosen = _spread(data.recovery, options.router_images, options.masks.seed)
    prepared = [
        prepare(sample, maskable.network.tasks, maskable.network.input_spec) for sample in chosen
    ]
    if len(prepared) < len(chosen):
        raise StageFailed("some training pictures do not decode", where=chosen.name)
    made = made.needed(maskable.importance(prepared), FEWEST)
    labels, count = made.assigned, len(made.keep)
    if count < 2:
        raise StageFailed(
            "one mask is best for all pictures, so a static one is as good",
            hint="give more pictures, or another --keep",
        )
    images = [b.images for b in maskable.batches(calibration[:CALIBRATION])]
    networks, recovered = [], []
    for index, keep in enumerate(made.keep):
        mine = np.flatnonzero(labels == index)
        _log.info(f"prototype {index + 1}: {len(mine)} pictures, {made.macs[index] / 1e6:.0f} MMAC")
        # Of all pictures; its own statistics come with its training.
        network = subnet(maskable.network, keep, maskable.groups, images)
        result = None
        if options.recovery is not None:
            own = data.oracle.subset(_of(made, index, maskable, held_out).tolist())
            _let_train(network, options.shared)
            where = None if state is None else state / f"prototype-{index + 1}.pt"
            training = chosen.subset(mine.tolist())
            result = recover(network, maskable.network, training, own, options.recovery, where)
        networks.append(network.eval().requires_grad_(False))
        recovered.append(result)
    router = train_router(prepared, labels, count, options.router)
    right = made.nearest(maskable.importance(held_out))
    predicted = probabilities(router, held_out)
    report = judge(predicted, right, options.router.precision)
    sure = predicted.max(axis=1) >= report.threshold
    shares = [float((~sure).mean())]
    shares += [float((sure & (predicted.argmax(axis=1) == i)).mean()) for i in range(count)]
    return Routed(
        maskable.network,
        tuple(networks),
        router,
        report,
        tuple(shares),
        (float(maskable.model.macs({})), *made.macs),
        made,
        tuple(recovered),
    )


def _let_train(network: MultiTaskNetwork, shared: bool) -> None:
    """Everything, or what is a prototype's own where weights are shared: norms and biases."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.requires_grad_(not shared or isinstance(module, norms) or name == "bias")


def _of(
    made: Prototypes, index: int, maskable: MaskableNetwork, held_out: Sequence[Prepared]
) -> NDArray[np.int64]:
    """Held-out pictures of a prototype; all of them where it has too few to judge by."""
    mine = np.flatnonzero(made.nearest(maskable.importance(held_out)) == index)
    return mine if len(mine) >= FEWEST else np.arange(len(held_out))


def _spread(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Random pictures, equally many of each part of the data set."""
    parts = getattr(dataset, "parts", (dataset,))
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    start = 0
    for part in parts:
        size = min(len(part), count // len(parts))
        chosen += (start + np.sort(rng.permutation(len(part))[:size])).tolist()
        start += len(part)
    return dataset.subset(chosen)
