"""Networks for pictures that need less, behind a router: what the mask stage and the verb share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgemtl.backends.routed import ROUTING
from edgemtl.backends.sharedweights import Sharing
from edgemtl.compress.batches import Prepared, images_of, prepare
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.dynamic.analysis import (
    AnalyseOptions,
    Analysis,
    MaskableNetwork,
    Observed,
    analyse,
)
from edgemtl.compress.dynamic.build import BuildOptions, Routed, build
from edgemtl.compress.dynamic.router import RouterOptions
from edgemtl.compress.recover import RecoverOptions
from edgemtl.errors import ParityFailed
from edgemtl.exporting.differences import difference
from edgemtl.exporting.parity import TOLERANCES, onnx_runner
from edgemtl.exporting.routed import ROUTER_FILE, SINGLE_FILE, export_routed, single_file
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, save
from edgemtl.pipeline.export import ExportRequest
from edgemtl.pipeline.prune import training_data
from edgemtl.pipeline.routed_set import folded, prototype_file
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import MASK
from edgemtl.targets import Target

_log = logging.getLogger(__name__)

#: pictures that the exported router is checked on
ROUTER_IMAGES = 8
#: pictures for saliency: one backward pass per task and four pictures
SALIENCY = 32


@dataclass(frozen=True)
class MaskRequest:
    """One network, to be masked for one target.

    Attributes:
        network: as it came, or pruned.
        recipe: resolved, with the target's defaults (:func:`~.defaults.recipe_for`).
        target: its multiple of channels, and how the networks are exported.
        source: name of the checkpoint that the network came from; written into the prototypes.
    """

    network: MultiTaskNetwork
    recipe: Recipe
    target: Target
    source: str

    @property
    def masks(self) -> AnalyseOptions:
        """How prototypes are chosen."""
        asked = self.recipe.mask
        multiple = asked.channel_multiple or self.target.channel_multiple
        return AnalyseOptions(
            asked.macs,
            asked.prototypes,
            asked.threshold,
            multiple,
            asked.nested,
            self.recipe.data.seed,
        )

    @property
    def build(self) -> BuildOptions:
        """How router and prototypes are made."""
        asked, seed = self.recipe.mask, self.recipe.data.seed
        recovery = None
        if asked.steps:
            recovery = RecoverOptions(
                steps=asked.steps,
                batch=asked.batch,
                evaluate_every=max(1, asked.steps // 3),
                warmup=min(40, max(1, asked.steps // 10)),
                seed=seed,
            )
        router = RouterOptions(precision=asked.precision, seed=seed)
        return BuildOptions(self.masks, router, asked.router_images, recovery, asked.shared)


@dataclass(frozen=True)
class MaskOutcome:
    """What became of the question whether masks pay.

    Attributes:
        analysis: whether pictures differ enough.
        routed: the networks and their router; None where the simpler network was kept.
        sharing: what their files share; None as well.
        held_out: prepared pictures that none of them learned from.
    """

    analysis: Analysis
    routed: Routed | None
    sharing: Sharing | None
    held_out: Sequence[Prepared]

    @property
    def files(self) -> list[str]:
        """Names of the files that were written."""
        if self.routed is None:
            return []
        made = [prototype_file(index) for index in range(len(self.routed.prototypes))]
        return [*made, ROUTING, SINGLE_FILE]

    def story(self) -> dict[str, Any]:
        """``mask.json``.

        ``analysis``, ``built`` (None when the simpler network was kept), ``files``, and
        ``weights``: what the networks share.
        """
        return {
            "analysis": self.analysis.to_dict(),
            "built": None if self.routed is None else self.routed.to_dict(),
            "files": self.files,
            "weights": None if self.sharing is None else self.sharing.to_dict(),
        }

    def documents(self) -> dict[str, Any]:
        """``mask.json``."""
        return {MASK: self.story()}

    def summary(self) -> list[str]:
        """What was decided, and what that comes to."""
        told = [self.analysis.sentence()]
        if self.routed is not None:
            found = self.routed.to_dict()
            told.append(
                f"{len(self.routed.prototypes)} prototypes: {found['shares'][0]:.1%} of the "
                f"held-out pictures go to the full network, "
                f"{found['mean_macs'] / found['macs'][0]:.0%} of its multiply-accumulates on "
                "average"
            )
        return told


def mask_network(
    request: MaskRequest,
    folder: Path | None,
    state: Path | None,
) -> MaskOutcome:
    """Ask whether pictures differ enough for networks of their own; make them where they do.

    Args:
        request: what is asked.
        folder: for checkpoints and graphs (``routing.json`` and what it names); None for the
            analysis alone.
        state: where killed trainings go on.

    Raises:
        UsageError: no training pictures, or a budget that cannot be met.
        InputRefused: the data is refused.
        StageFailed: a prototype cannot be made or exported, or the place is not writable.
        ParityFailed: the exported router answers otherwise than the trained one.
    """
    asked, network = request.recipe.mask, folded(request.network, request.recipe)
    data = training_data(request.recipe, "masks need training pictures")
    slices = DataSplits.split(data, asked.images, asked.images, request.recipe.data.seed)
    calibration, held_out = (
        [prepare(sample, network.tasks, network.input_spec) for sample in part]
        for part in (slices.calibration, slices.oracle)
    )
    _log.info("what each channel matters to each task")
    maskable = MaskableNetwork(network, saliency_images(calibration))
    _log.info(f"activations of {len(calibration) + len(held_out)} pictures")
    found = analyse(Observed(maskable, calibration, held_out), request.masks)
    if folder is None or not (found.worth_it or asked.force):
        return MaskOutcome(found, None, None, held_out)
    routed = build(maskable, slices, calibration, held_out, request.build, state)
    _log.info("exporting")
    for index, prototype in enumerate(routed.prototypes):
        facts = {"prototype": index + 1, "of": request.source}
        save(from_network(prototype, facts), folder / prototype_file(index))
    sharing = export_routed(
        routed.router,
        routed.full,
        routed.prototypes,
        routed.report.threshold,
        folder,
        ExportRequest(network, request.target, request.recipe).read_as,
    )
    single_file(folder, folder / SINGLE_FILE)
    require_same_router(routed.router, folder / ROUTER_FILE, held_out[:ROUTER_IMAGES])
    return MaskOutcome(found, routed, sharing, held_out)


def require_same_router(router: torch.nn.Module, onnx: Path, images: Sequence[Prepared]) -> None:
    """Hold the exported router against the one in torch; the networks are parity's to compare.

    Raises:
        ParityFailed: it computes something else.
    """
    run, allowed = onnx_runner(onnx), TOLERANCES["fp32"].max_relative
    for image in images_of(list(images)).contiguous().unbind():
        with torch.no_grad():
            expected = router(image[None]).numpy()
        off = difference(expected, next(iter(run(image[None].numpy()).values())))
        if not off.within(allowed):
            how = off.problem or f"by {off.max_relative:.2g} of its range ({allowed:g} allowed)"
            raise ParityFailed(f"the exported router differs from the trained one: {how}")


def saliency_images(images: Sequence[Prepared]) -> list[Prepared]:
    """Evenly spread pictures for saliency, so that every data set is among them."""
    step = max(1, len(images) // SALIENCY)
    return list(images[::step])[:SALIENCY]
