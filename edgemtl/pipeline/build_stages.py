"""Stages that make things: check the model, export it, compile it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgemtl.errors import InputRefused, UsageError
from edgemtl.export.metadata import write_metadata
from edgemtl.export.onnx_export import export_onnx
from edgemtl.export.simplify import simplify
from edgemtl.files import sha256_file, write_json
from edgemtl.models.checkpoint import weights_hash
from edgemtl.pipeline.stage import ARTEFACT, ARTEFACT_FOLDER, ONNX, Context, Stage, Tell

RAW_ONNX = "exported.onnx"
EXPORT_FACTS = "export.json"
MODEL_FACTS = "model.json"


class CheckModel(Stage):
    """Load the network, run it once, and refuse what cannot become a bundle."""

    def inputs(self, context: Context) -> dict[str, Any]:
        return {
            "model": context.model_sha256,
            "factory": context.factory,
            "factory_code": _factory_code(context),
            "tasks": context.task_names,
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write what the network is.

        Raises:
            InputRefused: its outputs are not finite, or not those its tasks own.
        """
        network = context.dense
        with torch.inference_mode():
            outputs = network(network.example_input(), context.task_names)
        wanted = network.output_names(context.task_names)
        if tuple(outputs) != wanted:
            raise InputRefused(
                f"the network returns {', '.join(outputs)}; its tasks own {', '.join(wanted)}"
            )
        for name, value in outputs.items():
            if not bool(value.isfinite().all()):
                raise InputRefused(f"output '{name}' is not finite on a plain noise picture")
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


def _factory_code(context: Context) -> str:
    """Hash of the module that a factory lives in; its own imports are the user's to mind."""
    if context.factory is None:
        return ""
    import importlib.util

    spec = importlib.util.find_spec(context.factory.partition(":")[0])
    return sha256_file(Path(spec.origin)) if spec is not None and spec.origin else ""


class Export(Stage):
    """Torch to simplified ONNX."""

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe, target = context.recipe.export, context.target
        return {
            "opset": recipe.opset or target.opset,
            "deformable": recipe.deformable or target.deformable,
            "tasks": context.task_names,
        }

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Write the graph as exported, simplified, and the map from its nodes to torch modules."""
        asked = self.inputs(context)
        exported = export_onnx(
            context.network(self.after[0]),
            folder / RAW_ONNX,
            opset=asked["opset"],
            tasks=asked["tasks"],
            deformable=asked["deformable"],
        )
        simple = simplify(exported.path, folder / ONNX)
        write_metadata(simple.path, context.tasks, context.dense.input_spec)
        facts = exported.to_dict()
        facts["simplified"] = simple.to_dict()
        write_json(folder / EXPORT_FACTS, facts)
        tell(f"opset {exported.opset}, {simple.nodes_before} -> {simple.nodes_after} nodes")
        for note in exported.notes:
            tell(note)


class Compile(Stage):
    """ONNX to the target's artefact."""

    def inputs(self, context: Context) -> dict[str, Any]:
        state = context.backend.availability()
        return {"target": context.target.model_dump(mode="json"), "runtime": state.version}

    def run(self, context: Context, folder: Path, tell: Tell) -> None:
        """Compile and write the artefact's description beside its files."""
        backend, onnx = context.backend, context.folders[self.after[0]] / ONNX
        for problem in backend.problems(onnx, context.target):
            tell(f"{problem.op} '{problem.node}': {problem.reason} ({problem.advice})")
        place = folder / ARTEFACT_FOLDER
        place.mkdir()
        artefact = backend.compile(onnx, context.target, place)
        size = sum((place / name).stat().st_size for name in artefact.files)
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


def check_recipe(context: Context) -> None:
    """Refuse a recipe that names tasks the network has not, before any work is done.

    Raises:
        UsageError: a gate for an unknown task.
    """
    known = {task.name for task in context.dense.tasks}
    for name in context.recipe.gates.tasks:
        if name not in known:
            raise UsageError(
                f"there is a gate for task '{name}', which the network does not have",
                where=f"gates.tasks.{name}",
                hint=f"its tasks: {', '.join(sorted(known))}",
            )
