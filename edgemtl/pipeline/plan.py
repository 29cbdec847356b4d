"""Which stages a recipe asks for, in order."""

from __future__ import annotations

from edgemtl.pipeline.build_stages import CheckModel, Compile, Export, TakeReference
from edgemtl.pipeline.check_stages import Accuracy, Bench, Cost, Gates
from edgemtl.pipeline.package_stages import MakeBundle, PredictionImages
from edgemtl.pipeline.parity_stage import Parity
from edgemtl.pipeline.prune_stage import Prune
from edgemtl.pipeline.quantize_stage import Quantize
from edgemtl.pipeline.stage import Stage
from edgemtl.recipes import Recipe


def plan(recipe: Recipe, against: bool = False) -> list[Stage]:
    """The stages of a run.

    Where nothing is compressed, what is exported is the uncompressed network, and it stands for
    its own reference. Where it is quantised, the float32 graph is compiled too, so that the two can
    be timed against each other. Where the recipe leaves open whether to prune, the stage that
    decides comes early, and the others as if it were not pruned; the runner plans anew once it is
    known.

    Args:
        recipe: of the run.
        against: whether the network is held against another one, which it was pruned from; that
            is exported and compiled too, and stands where the uncompressed network does.
    """
    stages: list[Stage] = [CheckModel("model")]
    dense = "model"
    source, graph, reference = "model", "export", ("export", "compile")
    lower: list[Stage] = []
    if recipe.quantize.enabled:
        graph, reference = "quantize", ("export", "compile-float")
        lower = [Quantize(graph, ("export",)), Compile(reference[1], ("export",))]
    if against:
        dense = "reference"
        stages.append(TakeReference(dense))
    if recipe.prune.enabled or against:
        reference = ("export-reference", "compile-reference")
        stages += [Export(reference[0], (dense,)), Compile(reference[1], reference[:1])]
    if recipe.prune.enabled is not False:
        stages.append(Prune("prune", ("model",)))
        source = "prune" if recipe.prune.enabled else source
    judged = ("accuracy-reference", "accuracy", "cost-reference", "cost")
    timed = ("compile", reference[1], *(("compile-float",) if lower else ()))
    return [
        *stages,
        Export("export", (source,)),
        *lower,
        Compile("compile", (graph,)),
        Parity("parity", (source, "export", "compile", *((graph,) if lower else ()))),
        Accuracy("accuracy-reference", dense),
        Accuracy("accuracy", "compile"),
        Cost("cost-reference", reference),
        Cost("cost", ("export", "compile")),
        MakeBundle("bundle", (graph, "compile", "parity", *judged, reference[1])),
        PredictionImages("pictures", (dense, "compile")),
        Bench("bench", timed),
        Gates("gates", (*judged, "bench")),
    ]


def stage_names(recipe: Recipe, against: bool = False) -> list[str]:
    """Names of the stages that a run may have, whatever becomes of what the recipe leaves open."""
    found = {stage.name: None for stage in plan(recipe, against)}
    if recipe.prune.enabled is None:
        section = recipe.prune.model_copy(update={"enabled": True})
        pruned = plan(recipe.model_copy(update={"prune": section}), against)
        found |= {stage.name: None for stage in pruned}
    return list(found)
