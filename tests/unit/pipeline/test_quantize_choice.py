"""What a precision stage asks, which stages it brings, and whose defaults hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.dense_family import build
from support.dense_work import write_dense_work

from edgemtl import recipes, targets
from edgemtl.compress.quantize.results import Culprit, QuantizeResult
from edgemtl.data.open import open_dataset
from edgemtl.errors import UsageError
from edgemtl.exporting.metadata import read_metadata
from edgemtl.files import sha256_file
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.plan import plan
from edgemtl.pipeline.preflight import check_precision
from edgemtl.pipeline.quantize import (
    QuantizeRequest,
    layer_rows,
    quantize_graph,
)
from edgemtl.pipeline.task_limits import task_budgets
from edgemtl.recipes import Recipe


def recipe(*assignments: str) -> Recipe:
    """A recipe of these values."""
    return recipes.resolve({}, None, assignments, {})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> QuantizeRequest:
    """A small network exported for ONNX Runtime, with pictures."""
    folder = tmp_path_factory.mktemp("job")
    work = write_dense_work(folder, images=4)
    onnx = folder / "float.onnx"
    export_file(work.model, onnx, targets.load("cpu"), factory="support.dense_family:build")
    tasks, spec = read_metadata(onnx)
    return QuantizeRequest(
        onnx=onnx,
        tasks=tasks,
        spec=spec,
        target=targets.load("cpu"),
        recipe=recipe(),
        calibration=open_dataset(work.data, "train"),
    )


# --- stages and defaults -------------------------------------------------------------------------


def after(asked: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage -> what it reads."""
    return {stage.name: stage.after for stage in plan(asked)}


def test_a_precision_comes_between_export_and_compile() -> None:
    stages = after(recipe("quantize.enabled=true", "prune.enabled=false"))
    assert list(stages)[:6] == ["model", "export", "quantize", "compile-float", "compile", "parity"]
    assert stages["compile"] == ("quantize",)
    assert stages["compile-float"] == ("export",)
    assert stages["parity"] == ("model", "export", "compile", "quantize")
    assert stages["bundle"][0] == "quantize"
    assert stages["cost"][0] == "export"
    assert stages["bench"] == ("compile", "compile-float", "compile-float")


def test_after_pruning_the_dense_network_stays_the_reference() -> None:
    stages = after(recipe("quantize.enabled=true", "prune.enabled=true"))
    assert stages["export"] == ("prune",)
    assert stages["cost-reference"] == ("export-reference", "compile-reference")
    assert stages["bench"] == ("compile", "compile-reference", "compile-float")


def test_without_it_nothing_changes() -> None:
    assert "quantize" not in after(recipe())
    assert after(recipe())["bench"] == ("compile", "compile")


@pytest.mark.parametrize(("target", "precision"), [("intel-cpu", "int8"), ("cpu", "auto")])
def test_a_targets_precision_holds_where_real_images_are_given(
    tmp_path: Path, target: str, precision: str
) -> None:
    given = recipe_for(targets.load(target), None, [f'data.root=["{tmp_path}"]'])
    assert (given.quantize.enabled, given.quantize.precision) == (True, precision)
    assert not recipe_for(targets.load(target), None, []).quantize.enabled


def test_the_user_overrides_the_target(tmp_path: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text('[data]\nroot = "x"\n[quantize]\nprecision = "fp16"\n', "utf-8")
    found = recipe_for(targets.load("intel-cpu"), config, ["quantize.images=3"])
    assert (found.quantize.precision, found.quantize.images) == ("fp16", 3)
    off = recipe_for(targets.load("intel-cpu"), config, ["quantize.enabled=false"])
    assert not off.quantize.enabled


# --- budgets -------------------------------------------------------------------------------------


def test_a_budget_is_half_of_the_gate_unless_it_is_named() -> None:
    tasks = build().tasks
    asked = recipe(
        "gates.tasks.parts.max_relative_drop=0.06",
        "gates.tasks.distance.max_relative_drop=false",
    )
    assert task_budgets(asked, tasks) == {"parts": 0.03, "distance": 0.01}
    assert task_budgets(recipe("quantize.budgets.parts=0.2"), tasks)["parts"] == 0.2
    with pytest.raises(UsageError, match="task 'nose'"):
        task_budgets(recipe("quantize.budgets.nose=0.2"), tasks)


def test_a_target_without_the_precision_is_refused() -> None:
    def check(target: str, *assignments: str) -> None:
        check_precision(recipe(*assignments), targets.load(target))

    lower = "quantize.enabled=true"
    with pytest.raises(UsageError, match="'cpu' has no fp16"):
        check("cpu", lower, "quantize.precision=fp16")
    check("cpu", lower, "quantize.precision=fp32")
    check("cpu", "quantize.precision=fp16")  # nobody asks for it
    check("jetson", lower, "quantize.precision=fp16")
    with pytest.raises(UsageError, match="'zcu104' has no fp32"):
        check("zcu104", lower, "quantize.precision=fp32")
    with pytest.raises(UsageError, match="'zcu104' has no fp32, and quantisation is off"):
        check("zcu104")


# --- writing -------------------------------------------------------------------------------------


def test_without_real_images_budgets_are_not_judged(job: QuantizeRequest, tmp_path: Path) -> None:
    asked = replace(job, recipe=recipe("quantize.precision=int8"))
    found = quantize_graph(asked, tmp_path / "int8.onnx").to_dict()
    assert found["precision"] == "int8" and found["result"]["tasks"] == {}
    assert any("not judged" in note for note in found["notes"])


def test_auto_without_real_images_stays_in_float(job: QuantizeRequest, tmp_path: Path) -> None:
    found = quantize_graph(job, tmp_path / "auto.onnx").to_dict()
    assert found["precision"] == "fp32" and found["result"] is None
    assert "--data" in found["choice"]["rejected"]["int8"]
    assert sha256_file(tmp_path / "auto.onnx") == sha256_file(job.onnx)


def test_auto_without_the_device_takes_the_targets_first_that_passes(
    job: QuantizeRequest, tmp_path: Path
) -> None:
    away = job.target.model_copy(
        update={"measured_here": False, "precisions": ("int8", "fp16", "fp32")}
    )
    found = quantize_graph(
        replace(job, target=away, recipe=recipe("data.root='mine'")), tmp_path / "auto.onnx"
    ).to_dict()
    assert found["precision"] == "int8"
    assert found["choice"]["reason"].startswith("no latency was measured")
    assert set(found["choice"]["rejected"]) == {"fp16", "fp32"}


def test_a_backend_that_computes_int8_in_float_is_told(
    job: QuantizeRequest, tmp_path: Path
) -> None:
    told = job.target.model_copy(update={"backend": "tvm"})
    asked = replace(job, target=told, recipe=recipe("quantize.precision=int8"))
    found = quantize_graph(asked, tmp_path / "int8.onnx").to_dict()
    assert any("will not be faster" in note for note in found["notes"])


def test_rows_are_the_culprits_where_there_are_some() -> None:
    result = QuantizeResult(
        path=Path("x.onnx"),
        precision="int8",
        layers=("b/Conv", "c/Conv"),
        kept={"a/Conv": "why"},
        culprits=(Culprit("a", ("a",), {"t": 0.7}, True), Culprit("b", ("b",), {"t": 0.3})),
        tasks={},
        evaluations=3,
        images=2,
        eval_images=2,
        method="minmax",
        seed=0,
        size_before=4,
        size_after=1,
    )
    assert layer_rows(result) == [
        {"name": "a", "precision": "fp32", "drops": {"t": 0.7}},
        {"name": "b", "precision": "int8", "drops": {"t": 0.3}},
    ]
    unranked = layer_rows(replace(result, culprits=()))
    assert [(row["name"], row["precision"]) for row in unranked] == [
        ("a/Conv", "fp32"),
        ("b/Conv", "int8"),
        ("c/Conv", "int8"),
    ]
