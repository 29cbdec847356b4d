"""Exporting as a recipe asks for it: what the export stage and the verbs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemtl.data.samples import Dataset
from edgemtl.exporting.module_cost import NetworkCost, module_costs
from edgemtl.exporting.network import ExportedNetwork, export_network
from edgemtl.exporting.parity import check_chain, onnx_runner
from edgemtl.measure.accuracy import network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.pipeline.experts import ExpertsChoice, experts_told, has_experts, prepare_experts
from edgemtl.pipeline.stage import EXPORT_FACTS
from edgemtl.recipes import Recipe
from edgemtl.targets import Target


@dataclass(frozen=True)
class ExportRequest:
    """One network, to be exported for one target.

    Attributes:
        network: left as it is.
        target: what it is for; what the recipe's ``[export]`` names replaces its own.
        recipe: resolved.
        calibration: opens the pictures that say how experts are used, asked only where the network
            has any; None where there are none: experts are then as the target reads them.
    """

    network: MultiTaskNetwork
    target: Target
    recipe: Recipe
    calibration: Callable[[], Dataset] | None = None

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that are kept."""
        names = self.recipe.model.tasks
        kept = self.network.selected(None if names is None else list(names))
        return [task.name for task in kept]

    @property
    def read_as(self) -> Target:
        """The target as this network is to be written for it."""
        asked = self.recipe.export
        changes = {"opset": asked.opset, "deformable": asked.deformable, "experts": asked.experts}
        given = {key: value for key, value in changes.items() if value is not None}
        return self.target.model_copy(update=given)

    @property
    def experts(self) -> ExpertsChoice | None:
        """What becomes of the network's experts; None where it has none."""
        if not has_experts(self.network):
            return None
        asked, named = self.recipe.export, self.recipe.model.tasks is not None
        return ExpertsChoice(
            self.read_as.experts,
            named if asked.drop_experts is None else asked.drop_experts,
            asked.expert_images,
            asked.expert_headroom,
        )

    def to_dict(self) -> dict[str, Any]:
        """What of the request decides how the graph is written, as plain data."""
        written_for, choice = self.read_as, self.experts
        found: dict[str, Any] = {
            "opset": written_for.opset,
            "deformable": written_for.deformable,
            "tasks": self.tasks,
        }
        return found if choice is None else {**found, "experts": asdict(choice)}


@dataclass(frozen=True)
class ExportOutcome:
    """An exported network.

    Attributes:
        exported: the files.
        network: cost of the torch network that it was written from, before any fold.
        experts: what became of its experts, as plain data; empty where nothing did.
    """

    exported: ExportedNetwork
    network: NetworkCost
    experts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``export.json``."""
        cost = {"macs": self.network.macs, "parameters": self.network.parameters}
        facts = {**self.exported.to_dict(), "network": cost}
        return {**facts, "experts": dict(self.experts)} if self.experts else facts

    def documents(self) -> dict[str, Any]:
        """``export.json``."""
        return {EXPORT_FACTS: self.to_dict()}

    def summary(self) -> list[str]:
        """What came of it, in sentences."""
        raw, simple = self.exported.raw, self.exported.simplified
        told = [experts_told(self.experts)] if self.experts else []
        told.append(f"opset {raw.opset}, {simple.nodes_before} -> {simple.nodes_after} nodes")
        return [*told, *raw.notes]


def export_model(request: ExportRequest, folder: Path) -> ExportOutcome:
    """Write ``exported.onnx`` and ``model.onnx`` into ``folder``, which exists.

    Raises:
        UsageError: a task the network does not have.
        InputRefused: no calibration picture decodes, where experts need some.
        StageFailed: the network cannot be exported, or the place cannot be written.
    """
    network, choice = request.network, request.experts
    experts: dict[str, Any] = {}
    if choice is not None and request.calibration is not None:
        network, experts = prepare_experts(network, request.tasks, choice, request.calibration())
    exported = export_network(network, request.read_as, folder, request.tasks)
    return ExportOutcome(exported, module_costs(network, request.tasks, alone=False), experts)


def require_same(request: ExportRequest, onnx: Path) -> None:
    """Hold an exported file against torch, on a noise picture.

    Raises:
        ParityFailed: it computes something else.
    """
    network, names = request.network, request.tasks
    check_chain(
        {"torch": network_runner(network, names), "onnx": onnx_runner(onnx)},
        [network.example_input().numpy()],
        network.selected(names),
    ).require()
