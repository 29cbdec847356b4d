"""``mask``: ask whether dynamic masks pay, and make the routed set and its bundle where they do."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl.backends import registry
from edgemtl.backends.artefacts import session_options
from edgemtl.backends.routed import ROUTING
from edgemtl.bundle.selftest import record_selftest
from edgemtl.bundle.write import BundleContents, write_bundle
from edgemtl.compress.batches import images_of
from edgemtl.compress.dynamic.build import Routed, route_torch
from edgemtl.errors import ParityFailed
from edgemtl.exporting.differences import difference
from edgemtl.exporting.onnx_export import INPUT_NAME
from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.files import write_json
from edgemtl.models.checkpoint import load_network, weights_hash
from edgemtl.pipeline.mask import MaskOutcome, MaskRequest, mask_network
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import MASK
from edgemtl.targets import Target

_log = logging.getLogger(__name__)

#: pictures on which the dispatched network is compared with torch
PARITY_PICTURES = 8
#: largest difference between torch and the runtime, relative to an output's range
TOLERANCE = 1e-3


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
        story["files"].append(_bundle(asked, outcome, outcome.routed, output))
        shutil.rmtree(state, ignore_errors=True)
    write_json(output / MASK, story)
    return story


def _bundle(
    asked: MaskFile,
    outcome: MaskOutcome,
    routed: Routed,
    folder: Path,
) -> str:
    """Compile the set, hold it against torch, and write the bundle; its name."""
    target, held_out = asked.target, outcome.held_out
    backend = registry.get(target.backend)
    compiled = folder / "compiled"
    shutil.rmtree(compiled, ignore_errors=True)
    compiled.mkdir()
    _log.info(f"compiling for {target.name}")
    artefact = backend.compile(folder / ROUTING, target, compiled)
    options = session_options(target, asked.recipe.bench.threads)
    session = backend.load(artefact, options)
    pictures = images_of(list(held_out[:: max(1, len(held_out) // PARITY_PICTURES)]))
    inputs = np.ascontiguousarray(pictures.numpy()[:, None])
    try:
        _check_dispatch(routed, session.run, pictures)
        selftest = record_selftest(session, inputs[:1])
    finally:
        session.close()
    name = f"{asked.model.stem}-{target.name}.edgemtl"
    contents = BundleContents(
        name=asked.model.stem,
        source_sha256=weights_hash(routed.full),
        onnx=folder / SINGLE_FILE,
        artefact=artefact,
        target=target,
        input_name=INPUT_NAME,
        input_spec=routed.full.input_spec,
        tasks=routed.full.tasks,
        selftest=selftest,
        session=options,
        seeds={"data": asked.recipe.data.seed},
        recipe=asked.recipe.to_dict(),
    )
    write_bundle(folder / name, contents)
    return name


def _check_dispatch(
    routed: Routed,
    run: Callable[[Any], dict[str, Any]],
    pictures: torch.Tensor,
) -> None:
    """Every picture's answers are those of the torch network that torch's router names."""
    networks = (routed.full, *routed.prototypes)
    for image in pictures:
        one = image[None].contiguous()
        index = route_torch(routed, one)
        if index is None:
            continue
        with torch.no_grad():
            expected = networks[index](one)
        answers = run(one.numpy())
        for name, value in expected.items():
            off = difference(value.numpy(), answers[name])
            if not off.within(TOLERANCE):
                how = off.problem or f"it differs by {off.max_relative:.2g} of its range"
                raise ParityFailed(
                    f"output '{name}' of the dispatched network differs from its network's: {how} "
                    f"(allowed {TOLERANCE:g})",
                    where="mask",
                )
