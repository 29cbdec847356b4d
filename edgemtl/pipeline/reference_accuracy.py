"""The accuracy of a dense network, measured once per pictures and kept by its weights' hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemtl import recipes
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused
from edgemtl.files import read_json, write_json
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.cache import (
    STAGES,
    StageCache,
    default_folder,
    key_of,
)
from edgemtl.pipeline.code_key import code_key
from edgemtl.pipeline.datasets import split_of
from edgemtl.pipeline.evaluate import EvaluateRequest, evaluate_model
from edgemtl.pipeline.reference import Reference
from edgemtl.record.run_record import ACCURACY

STAGE = "reference-accuracy"


def reference_accuracy(
    reference: Reference, tasks: Sequence[str], dataset: Dataset
) -> AccuracyReport:
    """Evaluate a reference, or take what was found for these weights and pictures before.

    Raises:
        StageFailed: the cache cannot be written.
    """
    network = reference.network
    key = key_of(
        {
            "code": code_key(
                __name__,
                type(network).__module__,
                *sorted({type(task).__module__ for task in network.selected(list(tasks))}),
            ),
            "weights": reference.weights_sha256,
            "family": network.family,
            "arguments": dict(network.arguments),
            "input": network.input_spec.to_dict(),
            "tasks": list(tasks),
            "data": dataset.fingerprint(),
        }
    )

    def make(folder: Path) -> None:
        found = evaluate_model(EvaluateRequest.of_network(network, tasks, dataset))
        write_json(folder / ACCURACY, found.report.to_dict())

    entry = StageCache(default_folder() / STAGES).result(STAGE, key, make)
    found = AccuracyReport.from_dict(read_json(entry.folder / ACCURACY))
    # equal pictures may lie elsewhere than when they were measured
    return replace(found, data=dataset.name, of=reference.name)


def accuracy_for_stored(
    path: Path,
    factory: str | None,
    recipe: Mapping[str, Any],
    primary: Mapping[str, Mapping[str, Any]],
    stored: Mapping[str, Any],
) -> AccuracyReport:
    """The accuracy of a reference on the pictures that stored results were measured on.

    Args:
        path: the reference's checkpoint.
        factory: builds the user's own network.
        recipe: of the stored run; says where the pictures lie.
        primary: task -> primary figure of the stored run, as plain data.
        stored: accuracy of the stored run's artefact, as plain data.

    Raises:
        InputRefused: the reference or the pictures are refused, or are not those.
        UsageError: the reference lacks a task.
    """
    network = load_network(path, factory)
    own = {task.name: task for task in network.tasks}
    names = list(stored.get("tasks", {}))
    for name in names:
        task = own.get(name)
        if task is None or task.primary.key != primary[name]["key"]:
            raise InputRefused(
                f"the reference has no task '{name}' that could be compared", where=str(path)
            )
    names = [name for name in own if name in names]  # one order, one entry of the cache
    data = recipes.validate({"data": recipe.get("data", {})}, "the stored recipe").data
    dataset = split_of(data, data.evaluation, network.selected(names))
    reference = Reference(path, network, "given as --reference")
    found = reference_accuracy(reference, names, dataset)
    if (found.data, found.images) != (stored.get("data"), stored.get("images")):
        raise InputRefused(
            f"{found.images} pictures of {found.data} are not the {stored.get('images')} of "
            f"{stored.get('data')} that the results are of",
            where=str(path),
            hint="run it where the same pictures are",
        )
    return found
