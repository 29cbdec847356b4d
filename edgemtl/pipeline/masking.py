"""``mask``: ask whether dynamic masks pay, and make the routed set and its bundle where they do."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.backends.artefacts import open_session, session_options
from edgemtl.backends.routed import ROUTING
from edgemtl.compress.batches import images_of
from edgemtl.compress.dynamic.build import Routed
from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.files import write_json
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.artefact import ArtefactRequest, compile_graph
from edgemtl.pipeline.bundle import SELFTEST_CASES, BundleRequest, Findings, make_bundle
from edgemtl.pipeline.mask import MaskOutcome, MaskRequest, mask_network
from edgemtl.pipeline.routed_set import CANDIDATES, Dispatched
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import MASK
from edgemtl.targets import Target

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskFile:
    """One checkpoint, to be masked for one target.

    Attributes:
        model: checkpoint.
        output: folder to write; None for the analysis alone.
        target: what it is for.
        recipe: resolved as ``compile`` resolves it (:func:`edgemtl.pipeline.defaults.recipe_for`).
        factory: ``package.module:function`` of the user's own network, or None.
    """

    model: Path
    output: Path | None
    target: Target
    recipe: Recipe
    factory: str | None = None


def mask_file(asked: MaskFile) -> dict[str, Any]:
    """Analyse, decide, and build when it is worth it (or forced).

    Returns:
        The story, as written to ``OUTPUT/mask.json`` (:meth:`edgemtl.pipeline.mask.MaskOutcome`).

    Raises:
        UsageError: no training pictures, or a budget that cannot be met.
        InputRefused: the model or the data is refused.
        StageFailed: a prototype cannot be made, exported or compiled, or the place is not writable.
        ParityFailed: the dispatched network answers otherwise than torch.
    """
    output = asked.output
    network = load_network(asked.model, asked.factory)
    request = MaskRequest(network, asked.recipe, asked.target, asked.model.name)
    if output is None:
        return mask_network(request, None, None).story()
    state = output.with_name(f"{output.name}.mask-state")
    outcome = mask_network(request, output, state)
    story = outcome.story()
    if outcome.routed is not None:
        story["files"].append(_bundle(asked, network, outcome, outcome.routed))
        shutil.rmtree(state, ignore_errors=True)
    write_json(output / MASK, story)
    return story


def _bundle(
    asked: MaskFile, network: MultiTaskNetwork, outcome: MaskOutcome, routed: Routed
) -> str:
    """Compile the set, hold it against torch, and write the bundle; its name.

    Pictures that none of the networks learned from stand where ``compile`` takes those of the
    calibration split.
    """
    target, recipe, folder = asked.target, asked.recipe, asked.output
    assert folder is not None  # a set was written there
    compiled = folder / "compiled"
    shutil.rmtree(compiled, ignore_errors=True)
    _log.info(f"compiling for {target.name}")
    made = compile_graph(ArtefactRequest(folder / ROUTING, target), compiled)
    count, held_out = recipe.export.parity_images, outcome.held_out
    step = max(1, len(held_out) // (CANDIDATES * count))
    images = np.ascontiguousarray(images_of(list(held_out[::step])).numpy())
    dispatched = Dispatched(folder, routed.full, asked.factory)
    with open_session(made.artefact, session_options(target, recipe.bench.threads)) as session:
        parity = dispatched.parity(session.run, images, count, routed.full.tasks)
    parity.require("keep the simpler network: compile it without masks")
    name = f"{asked.model.stem}-{target.name}.edgemtl"
    request = BundleRequest(
        model=asked.model,
        factory=asked.factory,
        network=network,
        tasks=routed.full.tasks,
        graph=folder / SINGLE_FILE,
        artefact=made.artefact,
        target=target,
        recipe=recipe,
        inputs=images[:SELFTEST_CASES],
        found=Findings(parity=parity.data),
    )
    bundle = make_bundle(request, folder / name)
    for line in [*made.summary(), *parity.summary(), *bundle.summary()]:
        _log.info(line)
    return name
