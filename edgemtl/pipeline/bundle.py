"""A bundle written: what the bundle stage and ``mask`` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends import registry
from edgemtl.backends.artefacts import open_session, same_artefact, session_options
from edgemtl.backends.types import Artefact
from edgemtl.bundle.selftest import TOLERANCES, record_selftest
from edgemtl.bundle.write import BundleContents, write_bundle
from edgemtl.exporting.onnx_export import INPUT_NAME
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load, weights_hash
from edgemtl.recipes import Recipe
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

#: each takes an input and all raw outputs, some megabytes for networks that answer per anchor
SELFTEST_CASES = 1


@dataclass(frozen=True)
class Findings:
    """What was found out on the way, as plain data, for whoever gets the bundle.

    Attributes:
        accuracy_before, accuracy_after: of the uncompressed network and of the artefact.
        cost_before, cost_after: the same.
        parity: ``parity.json``.
        gates: limits that the run was judged by.
        pruning: ``prune.json``; None where nothing was pruned.
    """

    accuracy_before: Mapping[str, Any] | None = None
    accuracy_after: Mapping[str, Any] | None = None
    cost_before: Mapping[str, Any] | None = None
    cost_after: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)
    pruning: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BundleRequest:
    """An artefact, to be packed with all that a device needs.

    Attributes:
        model: checkpoint that the run started from; says its name and its licence.
        factory: ``package.module:function`` of the user's own network, or None.
        network: the uncompressed network, as it came.
        tasks: that the artefact computes.
        graph: the ONNX file that goes along.
        artefact: compiled from it.
        target: what it was compiled for.
        recipe: resolved.
        inputs: (cases, 3, H, W) float32, real pictures for the self-test.
        precision: that the graph is written in.
        dense: artefact of the uncompressed network. It goes along where another machine is the
            device, since only there can the two be timed against each other.
        found: what is known of it.
    """

    model: Path
    factory: str | None
    network: MultiTaskNetwork
    tasks: Sequence[Task]
    graph: Path
    artefact: Artefact
    target: Target
    recipe: Recipe
    inputs: NDArray[np.float32]
    precision: str = "fp32"
    dense: Artefact | None = None
    found: Findings = field(default_factory=Findings)


@dataclass(frozen=True)
class BundleOutcome:
    """A bundle, and what its user must know of it."""

    path: Path
    notes: tuple[str, ...] = ()

    def documents(self) -> dict[str, Any]:
        """None: the bundle says what it is."""
        return {}

    def summary(self) -> list[str]:
        """What its user must know, and how large it is."""
        return [*self.notes, f"{self.path.stat().st_size / 1e6:.2f} MB"]


def make_bundle(request: BundleRequest, path: Path) -> BundleOutcome:
    """Record the self-test and write the bundle; equal requests give equal bytes.

    Raises:
        TargetUnavailable: the target's runtime is not here.
        StageFailed: the artefact cannot run, answers what is not finite, or the place cannot be
            written.
    """
    target, artefact, found = request.target, request.artefact, request.found
    options = session_options(target, request.recipe.bench.threads)
    with open_session(artefact, options) as session:
        inputs = np.ascontiguousarray(request.inputs[:, None])
        selftest = record_selftest(session, inputs, TOLERANCES[request.precision])
    contents = BundleContents(
        name=request.model.stem,
        source_sha256=weights_hash(request.network),
        onnx=request.graph,
        artefact=artefact,
        target=target,
        input_name=INPUT_NAME,
        input_spec=request.network.input_spec,
        tasks=request.tasks,
        selftest=selftest,
        session=options,
        accuracy_reference=found.accuracy_before,
        accuracy_bundle=found.accuracy_after,
        cost_before=found.cost_before,
        cost_after=found.cost_after,
        parity=found.parity,
        gates=found.gates,
        pruning=found.pruning,
        seeds={"data": request.recipe.data.seed},
        recipe=request.recipe.to_dict(),
        licence_note=_licence_note(request),
        reference=_reference(request),
    )
    write_bundle(path, contents)
    backend = registry.get(artefact.backend)
    if backend.capabilities.runner:
        return BundleOutcome(path)
    note = (
        f"the bundle cannot run itself: backend '{backend.name}' brings no module "
        "for the runner inside it (edgemtl run and bench work where the backend is)"
    )
    return BundleOutcome(path, (note,))


def _reference(request: BundleRequest) -> Artefact | None:
    dense = request.dense
    if dense is None or request.target.measured_here or same_artefact(request.artefact, dense):
        return None
    return dense


def _licence_note(request: BundleRequest) -> str:
    # A state dict for a factory has nobody's words with it.
    return "" if request.factory is not None else str(load(request.model).meta.get("licence", ""))
