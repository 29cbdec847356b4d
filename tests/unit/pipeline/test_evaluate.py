"""Accuracy is measured in one place: stage, verb and reference come to the same report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.dense_family import build
from support.dense_work import FACTORY, DenseWork, write_dense_work

from edgemtl import targets
from edgemtl.data.open import open_dataset
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline import compile as whole
from edgemtl.pipeline.check_stages import Accuracy
from edgemtl.pipeline.compile import CompileRequest
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.evaluate import EvaluateOutcome, EvaluateRequest, evaluate_model
from edgemtl.pipeline.evaluation import EvaluateFile, evaluate_file
from edgemtl.pipeline.reference import Reference
from edgemtl.pipeline.reference_accuracy import reference_accuracy


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=2)


def test_stage_verb_and_reference_find_the_same(work: DenseWork, tmp_path: Path) -> None:
    target = targets.load("cpu")
    recipe = recipe_for(target, None, [f"data.root={work.data}"])
    context = whole._context(CompileRequest(work.model, target, recipe, FACTORY, tmp_path / "run"))
    context.folders["model"] = tmp_path
    stage = Accuracy("accuracy-reference", network="model").run(context, tmp_path).report
    verb = evaluate_file(EvaluateFile(work.model, [work.data], factory=FACTORY))
    assert stage == verb
    assert stage.images == 2
    reference = Reference(work.model, load_network(work.model, FACTORY), "given as --reference")
    kept = reference_accuracy(reference, context.task_names, open_dataset(work.data, "val"))
    assert kept == replace(stage, of="dense.pt")


def test_only_the_tasks_asked_for_are_measured(work: DenseWork) -> None:
    network = build()
    (one, *others) = [task.name for task in network.tasks]
    assert others
    request = EvaluateRequest.of_network(network, [one], open_dataset(work.data, "val"), "me")
    outcome = evaluate_model(request)
    document = outcome.documents()["accuracy.json"]
    assert list(document["tasks"]) == [one]
    assert document["of"] == "me"


def test_a_few_problems_are_named_and_the_others_counted() -> None:
    def told(*skipped: str) -> list[str]:
        return EvaluateOutcome(AccuracyReport({}, 9, skipped, "faces")).summary()

    assert told() == ["9 pictures of faces"]
    assert told("a", "b", "c")[1:] == ["3 problem(s) in the data: a; b; c"]
    assert told("a", "b", "c", "d")[1:] == ["4 problem(s) in the data: a; b; c; ..."]
