"""``mask``: ask whether dynamic masks pay, and make the routed set where they do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.routed import ROUTING
from edgemtl.backends.sharedweights import Sharing
from edgemtl.backends.types import SessionOptions
from edgemtl.bundle.selftest import record_selftest
from edgemtl.bundle.write import BundleContents, write_bundle
from edgemtl.compress.batches import Prepared, images_of, prepare
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.dynamic.analysis import AnalyseOptions, Observed, Subject, analyse
from edgemtl.compress.dynamic.build import BuildOptions, Routed, build, route_torch
from edgemtl.compress.dynamic.router import RouterOptions
from edgemtl.compress.recover import RecoverOptions
from edgemtl.data.open import open_dataset
from edgemtl.errors import ParityFailed, UsageError
from edgemtl.export.differences import difference
from edgemtl.export.onnx_export import INPUT_NAME
from edgemtl.export.routed import SINGLE_FILE, export_routed, single_file
from edgemtl.files import write_json
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, load_network, save, weights_hash
from edgemtl.targets import Target

STORY = "mask.json"
#: pictures for saliency: one backward pass per task and four pictures
SALIENCY = 32
#: pictures on which the dispatched network is compared with torch
PARITY_PICTURES = 8
#: largest difference between torch and the runtime, relative to an output's range
TOLERANCE = 1e-3


@dataclass(frozen=True)
class MaskRequest:
    """What the user asked.

    Attributes:
        model: checkpoint.
        output: folder to write; None for the analysis alone.
        data: folders with a training split.
        target: name of the target.
        masks: how prototypes are chosen; their multiple is the target's.
        images: calibration pictures, and as many held-out ones.
        router_images: training pictures of router and prototypes.
        steps: of training per prototype; 0 for batch statistics alone.
        batch: pictures per step.
        precision: of the router.
        shared: train norms and biases only, so that the networks share their weights.
        force: make the set although the analysis advises against it.
        factory: as ``--factory``.
    """

    model: Path
    output: Path | None
    data: Sequence[Path]
    target: str
    masks: AnalyseOptions
    images: int = 96
    router_images: int = 400
    steps: int = 0
    batch: int = 12
    precision: float = 0.95
    shared: bool = False
    force: bool = False
    factory: str | None = None


def mask_file(request: MaskRequest, tell: Callable[[str], None]) -> dict[str, Any]:
    """Analyse, decide, and build when it is worth it (or forced).

    Returns:
        The story, as written to ``OUTPUT/mask.json``: ``analysis``, ``built`` (None when the
        simpler network was kept), ``files``, and ``weights``: what the networks share.

    Raises:
        UsageError: no training pictures, or a budget that cannot be met.
        InputRefused: the model or the data is refused.
        StageFailed: a prototype cannot be made, exported or compiled, or the place is not writable.
        ParityFailed: the dispatched network answers otherwise than torch.
    """
    if not request.data:
        raise UsageError("masks need training pictures", hint="give --data DIR, with a train split")
    target = targets.load(request.target)
    network = _folded(load_network(request.model, request.factory))
    slices = DataSplits.split(
        [open_dataset(folder, "train") for folder in request.data],
        request.images,
        request.images,
        request.masks.seed,
    )
    calibration = [
        prepare(sample, network.tasks, network.input_spec) for sample in slices.calibration
    ]
    held_out = [prepare(sample, network.tasks, network.input_spec) for sample in slices.oracle]
    tell("what each channel matters to each task")
    subject = Subject(network, _few(calibration))
    tell(f"activations of {len(calibration) + len(held_out)} pictures")
    found = analyse(Observed(subject, calibration, held_out), request.masks, tell)
    story: dict[str, Any] = {
        "analysis": found.to_dict(),
        "built": None,
        "files": [],
        "weights": None,
    }
    if request.output is None:
        return story
    if found.worth_it or request.force:
        options = _build_options(request)
        state = request.output.with_name(f"{request.output.name}.mask-state")
        routed = build(subject, slices, calibration, held_out, options, state, tell)
        story["built"] = routed.to_dict()
        story["files"], sharing = write_routed(request, target, routed, held_out, tell)
        story["weights"] = sharing.to_dict()
        shutil.rmtree(state, ignore_errors=True)
    write_json(request.output / STORY, story)
    return story


def _folded(network: MultiTaskNetwork) -> MultiTaskNetwork:
    fold: Callable[[], MultiTaskNetwork] | None = getattr(network, "folded", None)
    return network.eval() if fold is None or network.pruning else fold().eval()


def _few(pictures: Sequence[Prepared]) -> list[Prepared]:
    """Evenly spread pictures for saliency, so that every data set is among them."""
    step = max(1, len(pictures) // SALIENCY)
    return list(pictures[::step])[:SALIENCY]


def _build_options(request: MaskRequest) -> BuildOptions:
    recovery = None
    if request.steps:
        recovery = RecoverOptions(
            steps=request.steps,
            batch=request.batch,
            evaluate_every=max(1, request.steps // 3),
            warmup=min(40, max(1, request.steps // 10)),
            seed=request.masks.seed,
        )
    router = RouterOptions(precision=request.precision, seed=request.masks.seed)
    return BuildOptions(request.masks, router, request.router_images, recovery, request.shared)


def write_routed(
    request: MaskRequest,
    target: Target,
    routed: Routed,
    held_out: Sequence[Prepared],
    tell: Callable[[str], None],
) -> tuple[list[str], Sharing]:
    """Checkpoints, ONNX files, the joined file, and the bundle for the target.

    Returns:
        Names of the files, relative to the output folder, and what the ONNX files share.
    """
    assert request.output is not None
    folder = request.output
    for index, network in enumerate(routed.prototypes):
        facts = {"prototype": index + 1, "of": request.model.name}
        save(from_network(network, facts), folder / f"prototype-{index + 1}.pt")
    tell("exporting")
    sharing = export_routed(
        routed.router,
        routed.full,
        routed.prototypes,
        routed.report.threshold,
        folder,
        target,
    )
    single_file(folder, folder / SINGLE_FILE)
    backend = registry.get(target.backend)
    compiled = folder / "compiled"
    shutil.rmtree(compiled, ignore_errors=True)
    compiled.mkdir()
    tell(f"compiling for {target.name}")
    artefact = backend.compile(folder / ROUTING, target, compiled)
    options = SessionOptions(threads=1 if target.threads is None else target.threads)
    session = backend.load(artefact, options)
    pictures = images_of(list(held_out[:: max(1, len(held_out) // PARITY_PICTURES)]))
    inputs = np.ascontiguousarray(pictures.numpy()[:, None])
    try:
        _check_dispatch(routed, session.run, pictures)
        selftest = record_selftest(session, inputs[:1])
    finally:
        session.close()
    name = f"{request.model.stem}-{target.name}.edgemtl"
    write_bundle(
        folder / name,
        BundleContents(
            name=request.model.stem,
            source_sha256=weights_hash(routed.full),
            onnx=folder / SINGLE_FILE,
            artefact=artefact,
            target=target,
            input_name=INPUT_NAME,
            input_spec=routed.full.input_spec,
            tasks=routed.full.tasks,
            selftest=selftest,
            session=options,
            seeds={"data": request.masks.seed},
            recipe={"mask": request.masks.to_dict()},
        ),
    )
    return [
        *(f"prototype-{i + 1}.pt" for i in range(len(routed.prototypes))),
        ROUTING,
        SINGLE_FILE,
        name,
    ], sharing


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
                    f"output '{name}' of the dispatched network is not its network's: {how} "
                    f"(allowed {TOLERANCE:g})",
                    where="mask",
                )
