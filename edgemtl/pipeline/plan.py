"""Which stages a recipe asks for, in order."""

from __future__ import annotations

from edgemtl.pipeline.build_stages import CheckModel, Compile, Export, TakeReference
from edgemtl.pipeline.check_stages import Accuracy, Bench, Cost, Gates
from edgemtl.pipeline.mask_stage import Mask
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
    compared = "model"
    source, graph, dense_graph, dense = "model", "export", "export", "compile"
    lower: list[Stage] = []
    lowered: dict[str, str] = {}
    same_in_float: dict[str, str] = {}
    if recipe.quantize.enabled:
        graph, dense = "quantize", "compile-float"
        lower = [Quantize(graph, graph="export"), Compile(dense, graph="export")]
        lowered, same_in_float = {"lowered": graph}, {"same_in_float": dense}
    if against:
        compared = "reference"
        stages.append(TakeReference(compared))
    if recipe.prune.enabled or against:
        dense_graph, dense = "export-reference", "compile-reference"
        stages += [Export(dense_graph, network=compared), Compile(dense, graph=dense_graph)]
    if recipe.prune.enabled is not False:
        stages.append(Prune("prune", network="model"))
    pruned: dict[str, str] = {}
    if recipe.prune.enabled:
        source, pruned = "prune", {"pruned": "prune"}
    routed: dict[str, str] = {}
    if recipe.mask.enabled:
        stages.append(Mask("mask", network=source))
        routed = {"routed": "mask"}
        if dense == "compile":  # the routed set is not its own reference
            dense = "compile-reference"
            lower = [Compile(dense, graph="export")]
    judged = {
        "accuracy_before": "accuracy-reference",
        "accuracy_after": "accuracy",
        "cost_before": "cost-reference",
        "cost_after": "cost",
    }
    return [
        *stages,
        Export("export", network=source),
        *lower,
        Compile("compile", graph=graph, **routed),
        Parity("parity", network=source, export="export", artefact="compile", **lowered, **routed),
        Accuracy("accuracy-reference", network=compared),
        Accuracy("accuracy", artefact="compile"),
        Cost("cost-reference", graph=dense_graph, artefact=dense),
        Cost("cost", graph="export", artefact="compile"),
        MakeBundle(
            "bundle",
            graph=graph,
            artefact="compile",
            parity="parity",
            **judged,
            dense=dense,
            **routed,
            **pruned,
        ),
        PredictionImages("pictures", network=compared, artefact="compile"),
        Bench("bench", artefact="compile", dense=dense, **same_in_float),
        Gates("gates", **judged, bench="bench", **pruned),
    ]


def stage_names(recipe: Recipe, against: bool = False) -> list[str]:
    """Names of the stages that a run may have, whatever becomes of what the recipe leaves open."""
    found = {stage.name: None for stage in plan(recipe, against)}
    if recipe.prune.enabled is None:
        section = recipe.prune.model_copy(update={"enabled": True})
        pruned = plan(recipe.model_copy(update={"prune": section}), against)
        found |= {stage.name: None for stage in pruned}
    return list(found)
