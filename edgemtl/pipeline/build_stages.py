"""Stages that make things: check the model, export it, compile it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemtl.backends.routed import ROUTING
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import InputRefused
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, save, weights_hash
from edgemtl.models.user_code import told_as_its_own
from edgemtl.pipeline.artefact import ArtefactOutcome, ArtefactRequest, compile_graph
from edgemtl.pipeline.export import ExportOutcome, ExportRequest, export_model
from edgemtl.pipeline.reference import Reference
from edgemtl.pipeline.routed_set import routed_folder
from edgemtl.pipeline.stage import ARTEFACT_FOLDER, CHECKPOINT, ONNX, Context, Stage
from edgemtl.tasks.base import Task

MODEL_FACTS = "model.json"


@dataclass(frozen=True)
class ModelFacts:
    """What a network is.

    Attributes:
        family: that built it, or "(factory)".
        arguments: of the family.
        tasks: that are kept.
        input_spec: how pictures become its input.
        parameters: how many.
        weights_sha256: of their names, shapes and bytes.
        against: what it is compared with, where that is not itself as a matter of course.
    """

    family: str
    arguments: Mapping[str, Any]
    tasks: tuple[Task, ...]
    input_spec: InputSpec
    parameters: int
    weights_sha256: str
    against: str = ""

    def documents(self) -> dict[str, Any]:
        """``model.json``."""
        return {
            MODEL_FACTS: {
                "family": self.family,
                "arguments": dict(self.arguments),
                "tasks": [task.spec().to_dict() for task in self.tasks],
                "input": self.input_spec.to_dict(),
                "parameters": self.parameters,
                "weights_sha256": self.weights_sha256,
            }
        }

    def summary(self) -> list[str]:
        """In a sentence."""
        names = ", ".join(task.name for task in self.tasks)
        compared = [f"compared with {self.against}"] if self.against else []
        return [f"{self.parameters:,} parameters, tasks {names}", *compared]


class CheckModel(Stage):
    """Load the network, run it once, and refuse what cannot become a bundle."""

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "model": context.model_sha256,
            "factory": context.factory,
            "tasks": context.task_names,
            "compared with": context.against.note,
        }

    def run(self, context: Context, folder: Path) -> ModelFacts:
        """Say what the network is.

        Raises:
            InputRefused: it does not run, or its outputs are not finite, or not those its tasks
                own.
        """
        network = context.dense
        _try_out(network, context.task_names, str(context.model))
        return ModelFacts(
            network.family or "(factory)",
            network.arguments,
            context.tasks,
            network.input_spec,
            sum(p.numel() for p in network.parameters()),
            weights_hash(network),
            context.against.note,
        )


@dataclass(frozen=True)
class TakenReference:
    """The dense network that another was pruned from."""

    reference: Reference

    def documents(self) -> dict[str, Any]:
        """None: its checkpoint says what it is."""
        return {}

    def summary(self) -> list[str]:
        """Which it is, and how it was found."""
        found = self.reference
        parameters = sum(p.numel() for p in found.network.parameters())
        return [f"{found.name}, {found.found}: {parameters:,} parameters"]


class TakeReference(Stage):
    """The dense network that a pruned one is held against, as a checkpoint for other stages."""

    def inputs(self, context: Context) -> dict[str, Any]:
        found = _reference(context)
        return {
            "weights": found.weights_sha256,
            "name": found.name,
            "factory": context.factory,
            "tasks": context.task_names,
        }

    def run(self, context: Context, folder: Path) -> TakenReference:
        """Run it once and write it.

        Raises:
            InputRefused: it does not run, or its outputs are not finite, or not those its tasks
                own.
        """
        found = _reference(context)
        _try_out(found.network, context.task_names, str(found.path))
        save(from_network(found.network), folder / CHECKPOINT)
        return TakenReference(found)


def _reference(context: Context) -> Reference:
    found = context.against.reference
    assert found is not None  # the stage is only planned where there is one
    return found


def _try_out(network: MultiTaskNetwork, tasks: Sequence[str], where: str) -> None:
    with told_as_its_own(network), torch.inference_mode():
        outputs = network(network.example_input(), tasks)
    wanted = network.output_names(tasks)
    if not isinstance(outputs, dict) or not all(isinstance(v, Tensor) for v in outputs.values()):
        raise InputRefused("the network does not return output name -> tensor", where=where)
    if tuple(outputs) != wanted:
        raise InputRefused(
            f"the network returns {', '.join(map(str, outputs)) or 'nothing'}; its tasks own "
            f"{', '.join(wanted)}, in this order",
            where=where,
        )
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != 1:
            shape = tuple(value.shape)
            raise InputRefused(f"output '{name}' has shape {shape}, not (1, ...)", where=where)
        if not bool(value.isfinite().all()):
            raise InputRefused(f"output '{name}' is not finite on a noise picture", where=where)
    for task in network.selected(tasks):
        shapes = {name: tuple(outputs[name].shape) for name in task.outputs}
        task.check_outputs(shapes, network.input_spec.size)


class Export(Stage):
    """Torch to simplified ONNX."""

    @staticmethod
    def request(context: Context, network: MultiTaskNetwork) -> ExportRequest:
        """What this run exports, and for what."""
        return ExportRequest(network, context.target, context.recipe, lambda: context.calibration)

    def inputs(self, context: Context) -> dict[str, Any]:
        request = self.request(context, context.dense)
        asked = request.to_dict()
        if request.experts is not None:
            asked["calibration"] = context.calibration_fingerprint
        return asked

    def run(self, context: Context, folder: Path) -> ExportOutcome:
        """Write the graph as exported, simplified, and the map from its nodes to torch modules."""
        network = context.network(self.reads["network"])
        return export_model(self.request(context, network), folder)


class Compile(Stage):
    """ONNX to the target's artefact."""

    def inputs(self, context: Context) -> dict[str, Any]:
        state = context.backend.availability()
        return {
            "target": context.target.model_dump(mode="json"),
            "runtime": state.version,
            "backend": context.backend_code,
            "task_files": self._task_files(context),
        }

    @staticmethod
    def _task_files(context: Context) -> dict[str, tuple[str, ...]]:
        """Task -> its outputs, where a graph per task is asked for."""
        if not context.recipe.export.task_files:
            return {}
        return {task.name: task.outputs for task in context.tasks}

    def run(self, context: Context, folder: Path) -> ArtefactOutcome:
        """Compile into a folder of its own."""
        graph = self.folder_of(context, "graph") / ONNX
        if "routed" in self.reads and (networks := routed_folder(context)) is not None:
            graph = networks / ROUTING
        request = ArtefactRequest(graph, context.target, self._task_files(context))
        return compile_graph(request, folder / ARTEFACT_FOLDER)
