"""The quantize stage: the precision that the recipe asks for, written into the ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.data.groups import groups_hash
from edgemtl.pipeline.quantize import QuantizeOutcome, QuantizeRequest, quantize_graph
from edgemtl.pipeline.routed_set import routed_folder
from edgemtl.pipeline.stage import ONNX, Context, Decision, Stage
from edgemtl.pipeline.task_limits import task_budgets


class Quantize(Stage):
    """Float32 graph to one in lower precision, for all runtimes of the target.

    A choice by measurement ("auto") is made once and kept with the result: whoever needs the same
    bytes on another machine writes the precision it took into the recipe.
    """

    needs_data = True
    makes_weights = True

    def decide(self, context: Context) -> Decision | None:
        """Not to, where networks stand behind a router: they stay in float32 so far."""
        if routed_folder(context) is None:
            return None
        section = context.recipe.quantize.model_copy(update={"enabled": False})
        recipe = context.recipe.model_copy(update={"quantize": section})
        return Decision(recipe, False, "not quantised: networks behind a router stay in float32")

    def inputs(self, context: Context) -> dict[str, Any]:
        recipe = context.recipe
        asked = recipe.quantize.model_dump(mode="json")
        timed = recipe.quantize.precision == "auto"
        return {
            "asked": asked,
            "budgets": task_budgets(recipe, context.tasks),
            "seed": recipe.data.seed,
            "real": bool(recipe.data.root),
            "data": context.calibration_fingerprint,
            "alike": groups_hash(context.calibration),
            "target": context.target.model_dump(mode="json"),
            "bench": recipe.bench.model_dump() if timed else None,
            "backend": context.backend_code,
            "runtime": context.backend.availability().version if timed else "",
        }

    def run(self, context: Context, folder: Path) -> QuantizeOutcome:
        """Write the graph."""
        request = QuantizeRequest(
            self.folder_of(context, "graph") / ONNX,
            context.tasks,
            context.dense.input_spec,
            context.target,
            context.recipe,
            context.calibration,
        )
        return quantize_graph(request, folder / ONNX)
