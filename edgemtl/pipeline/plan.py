"""Which stages a recipe asks for, in order."""

from __future__ import annotations

from edgemtl.pipeline.build_stages import CheckModel, Compile, Export
from edgemtl.pipeline.check_stages import Accuracy, Bench, Cost, Gates
from edgemtl.pipeline.package_stages import MakeBundle, PredictionImages
from edgemtl.pipeline.parity_stage import Parity
from edgemtl.pipeline.prune_stage import Prune
from edgemtl.pipeline.quantize_stage import Quantize
from edgemtl.pipeline.stage import Stage
from edgemtl.recipes import Recipe


def plan(recipe: Recipe) -> list[Stage]:
    """The stages of a run.

    Where nothing is compressed, what is exported is the uncompressed network, and it stands for
    its own reference. Where it is quantised, the float32 graph is compiled too, so that the two can
    be timed against each other. Where the recipe leaves open whether to prune, the stage that
    decides comes early, and the others as if it were not pruned; the runner plans anew once it is
    known.
    """
    stages: list[Stage] = [CheckModel("model")]
    source, graph, reference = "model", "export", ("export", "compile")
    lower: list[Stage] = []
    if recipe.quantize.enabled:
        graph, reference = "quantize", ("export", "compile-float")
        lower = [Quantize(graph, ("export",)), Compile(reference[1], ("export",))]
    if recipe.prune.enabled:
        reference = ("export-reference", "compile-reference")
        stages += [
            Export(reference[0], ("model",)),
            Compile(reference[1], reference[:1]),
            Prune("prune", ("model",)),
        ]
        source = "prune"
    elif recipe.prune.enabled is None:
        stages.append(Prune("prune", ("model",)))
    judged = ("accuracy-reference", "accuracy", "cost-reference", "cost")
    timed = ("compile", reference[1], *(("compile-float",) if lower else ()))
    return [
        *stages,
        Export("export", (source,)),
        *lower,
        Compile("compile", (graph,)),
        Parity("parity", (source, "export", "compile", *((graph,) if lower else ()))),
        Accuracy("accuracy-reference", "model"),
        Accuracy("accuracy", "compile"),
        Cost("cost-reference", reference),
        Cost("cost", ("export", "compile")),
        MakeBundle("bundle", (graph, "compile", "parity", *judged, reference[1])),
        PredictionImages("pictures", ("model", "compile")),
        Bench("bench", timed),
        Gates("gates", (*judged, "bench")),
    ]


def stage_names(recipe: Recipe) -> list[str]:
    """Names of the stages that a run may have, whatever becomes of what the recipe leaves open."""
    found = {stage.name: None for stage in plan(recipe)}
    if recipe.prune.enabled is None:
        section = recipe.prune.model_copy(update={"enabled": True})
        pruned = plan(recipe.model_copy(update={"prune": section}))
        found |= {stage.name: None for stage in pruned}
    return list(found)
