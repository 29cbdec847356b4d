"""Stages that make things: check the model, export it, compile it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemtl.backends.taskfiles import with_task_files
from edgemtl.errors import InputRefused
from edgemtl.files import write_json
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, save, weights_hash
from edgemtl.pipeline.export import ExportRequest, export_model
from edgemtl.pipeline.reference import Reference
from edgemtl.pipeline.stage import (
    ARTEFACT,
    ARTEFACT_FOLDER,
    CHECKPOINT,
    EXPORT_FACTS,
    ONNX,
    Context,
    Stage,
    Tell,
)

MODEL_FACTS = "model.json"


class CheckModel(Stage):
    """Load the network, run it once, and refuse what cannot become a bundle."""

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "model": context.model_sha256,
            "factory": context.factory,
            "tasks": context.task_names,
            "compared with": context.against.note,
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write what the network is.

        Raises:
            InputRefused: it does not run, or its outputs are not finite, or not those its tasks
                own.
        """
        network = context.dense
        _try_out(network, context.task_names, str(context.model))
        parameters = sum(p.numel() for p in network.parameters())
        write_json(
            folder / MODEL_FACTS,
            {
                "family": network.family or "(factory)",
                "arguments": network.arguments,
                "tasks": [task.spec().to_dict() for task in context.tasks],
                "input": network.input_spec.to_dict(),
                "parameters": parameters,
                "weights_sha256": weights_hash(network),
            },
        )
        tell(f"{parameters:,} parameters, tasks {', '.join(context.task_names)}")
        if context.against.note:
            tell(f"compared with {context.against.note}")


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

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Run it once and write it.

        Raises:
            InputRefused: it does not run, or its outputs are not finite, or not those its tasks
                own.
        """
        found = _reference(context)
        _try_out(found.network, context.task_names, str(found.path))
        save(from_network(found.network), folder / CHECKPOINT)
        parameters = sum(p.numel() for p in found.network.parameters())
        tell(f"{found.name}, {found.found}: {parameters:,} parameters")


def _reference(context: Context) -> Reference:
    found = context.against.reference
    assert found is not None  # the stage is only planned where there is one
    return found


def _try_out(network: MultiTaskNetwork, tasks: Sequence[str], where: str) -> None:
    try:
        with torch.inference_mode():
            outputs = network(network.example_input(), tasks)
    except Exception as error:  # the forward may be anybody's code
        raise InputRefused(
            f"the network does not run on one picture: {type(error).__name__}: {error}",
            where=where,
            hint="its forward takes (1, 3, H, W) float32 with H and W of its input_spec",
        ) from error
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

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write the graph as exported, simplified, and the map from its nodes to torch modules."""
        outcome = export_model(self.request(context, context.network(self.after[0])), folder)
        write_json(folder / EXPORT_FACTS, outcome.to_dict())
        for line in outcome.summary():
            tell(line)


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

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Compile and write the artefact's description beside its files."""
        backend, onnx = context.backend, context.folders[self.after[0]] / ONNX
        for problem in backend.problems(onnx, context.target):
            tell(f"{problem.op} '{problem.node}': {problem.reason} ({problem.advice})")
        place = folder / ARTEFACT_FOLDER
        place.mkdir()
        artefact = backend.compile(onnx, context.target, place)
        if tasks := self._task_files(context):
            artefact = with_task_files(artefact, tasks)
        # A runtime that is the same for every network says nothing about this one.
        own = set(artefact.files) - set(artefact.facts.get("runtime_files", ()))
        size = sum((place / name).stat().st_size for name in own)
        write_json(
            folder / ARTEFACT,
            {
                "backend": artefact.backend,
                "target": artefact.target,
                "files": list(artefact.files),
                "reproducible": artefact.reproducible,
                "facts": dict(artefact.facts),
                "size_bytes": size,
            },
        )
        tell(f"{len(artefact.files)} file(s), {size / 1e6:.2f} MB for {context.target.name}")
