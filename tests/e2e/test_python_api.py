"""The Python API on the network that the command line compiled: both say and do the same."""

from __future__ import annotations

import functools
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Compiled
from support.command import edgemtl as command
from support.dense_work import FACTORY, DenseWork, write_dense_work

import edgemtl
from edgemtl.progress import Progress
from edgemtl.recipes import QuantizeSection

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "python_api.py"
TARGETS = ("cpu", "intel-cpu")
UNTIMED = {"bench.enabled": False, "gates.allow_not_measured": ["latency"]}
QUICK = {"seconds": 0.05, "warmup_seconds": 0.0, "min_runs": 20, "max_seconds": 1.0}


@pytest.fixture(scope="module")
def model(dense_work: DenseWork) -> edgemtl.Model:
    """The network, loaded."""
    return edgemtl.load_model(dense_work.model, factory=FACTORY)


# --- the script of docs/python.md ----------------------------------------------------------------


def test_the_script_compiles_reads_and_draws(
    compiled: Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # On the small network, whose stages lie in the cache.
    work, real = compiled.work, edgemtl.compile
    small = functools.partial(
        real, factory=FACTORY, data=work.data, overrides={"quantize.enabled": False}
    )
    monkeypatch.setattr(edgemtl, "compile", small)
    main = runpy.run_path(str(SCRIPT))["main"]
    code = main([str(work.model), "--output", str(tmp_path), "--seconds", "0.05"])
    told = capsys.readouterr().out
    runs = {target: edgemtl.load_run(tmp_path / target) for target in TARGETS}
    assert code == next((int(run.exit_code) for run in runs.values() if not run.passed), 0)
    for target, run in runs.items():
        assert f"{target}: " in told and str(run.bundle) in told and str(run.tasks["parts"]) in told
        assert {stage.status for stage in run.stages} <= {"cached", "done", "skipped"}
        assert "cached" in {stage.status for stage in run.stages}
    assert (tmp_path / "accuracy-latency.png").read_bytes().startswith(b"\x89PNG")
    assert main(["absent.pt", "--output", str(tmp_path / "none")]) == 3


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_says_what_its_files_say(compiled: Compiled, target: str) -> None:
    folder = compiled.run(target)
    run = edgemtl.load_run(folder)

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text("utf-8"))

    cost, accuracy, bench = read("cost.json"), read("accuracy.json"), read("bench/artefact.json")
    assert (run.target, run.status, run.exit_code) == (target, "passed", edgemtl.ExitCode.OK)
    assert (run.macs.before, run.macs.after) == tuple(
        cost[side]["macs"] for side in ("reference", "artefact")
    )
    assert run.macs.ratio == 1 and "100.0%" in str(run.macs)
    for name, task in run.tasks.items():
        key = accuracy["metrics"][name]["primary"]["key"]
        assert task.value == accuracy["artefact"]["tasks"][name][key]
        assert task.reference == accuracy["reference"]["tasks"][name][key]
        assert task.figures == accuracy["artefact"]["tasks"][name]
        assert task.drop is not None and abs(task.drop) < 0.02
    assert run.latency is not None and run.latency.p50_ms == bench["summary"]["p50_ms"]
    assert run.latency.low_ms <= run.latency.p50_ms <= run.latency.high_ms <= run.latency.p99_ms
    assert [gate.name for gate in run.gates] == [
        one["name"] for one in read("gates.json")["outcomes"]
    ]
    assert run.bundle == compiled.bundle(target) and run.report == folder / "report.html"
    assert run.problems == () and run.error is None and run.reason == ""
    assert str(run) in compiled.told.out
    assert repr(run) == f"Run({str(folder)!r}, target={target!r}, status='passed')"
    run.raise_for_gates()


def test_compiling_gives_the_run_that_the_verb_leaves(
    compiled: Compiled, model: edgemtl.Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[Progress] = []
    run = edgemtl.compile(
        model,
        edgemtl.load_target("cpu"),
        output=tmp_path / "run",
        data=compiled.work.data,
        recipe=edgemtl.Recipe(quantize=QuantizeSection(enabled=False)),
        overrides=UNTIMED,
        progress=heard.append,
    )
    assert capfd.readouterr() == ("", "")  # a library says nothing unless it is asked
    assert {stage.status for stage in run.stages} <= {"cached", "done", "skipped"}
    assert run == edgemtl.load_run(run.folder)
    assert run.passed and run.latency is None and run.not_timed
    first = edgemtl.load_run(compiled.run("cpu"))
    assert {name: task.value for name, task in run.tasks.items()} == {
        name: task.value for name, task in first.tasks.items()
    }
    assert run.bundle is not None and run.bundle.is_file()
    assert {one.what for one in heard} >= {"compile"}
    told = json.loads((run.folder / "run.json").read_text("utf-8"))["command"]
    assert told.startswith("edgemtl.compile(model=") and "target='cpu'" in told


def test_a_stage_that_fails_raises_and_leaves_the_run(
    compiled: Compiled, model: edgemtl.Model, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(compiled.work.data, data)
    for image in (data / "val" / "images").iterdir():
        image.write_bytes(b"no picture")
    with pytest.raises(edgemtl.InputRefused) as failed:
        edgemtl.compile(model, output=tmp_path / "run", data=data, overrides=UNTIMED)
    assert failed.value.exit_code == 3
    assert failed.value.__notes__ == [f"the run as far as it came: {tmp_path / 'run'}"]
    run = edgemtl.load_run(tmp_path / "run")
    assert run.error is not None and run.error.message == failed.value.message
    assert (run.passed, run.exit_code, run.bundle) == (False, edgemtl.ExitCode.INPUT_REFUSED, None)
    with pytest.raises(edgemtl.GatesFailed, match="The run stopped at stage"):
        run.raise_for_gates()


def test_a_gate_that_fails_is_told_and_raises_when_asked(compiled: Compiled) -> None:
    run = edgemtl.load_run(compiled.run("cpu"))
    judged = edgemtl.gate(run)
    assert judged.passed and judged.gates == run.gates and judged.changes == ()
    failed = edgemtl.gate(run, overrides={"gates.cost.size_bytes": 10})
    assert not failed.passed and failed.exit_code == edgemtl.ExitCode.COST_GATE
    (outcome,) = (gate for gate in failed.gates if not gate.ok)
    assert (outcome.name, outcome.status, outcome.limit) == ("cost.size_bytes", "fail", 10)
    assert "not good enough" in str(failed) and "cost.size_bytes: fail" in str(outcome)
    with pytest.raises(edgemtl.GatesFailed, match=r"cost\.size_bytes") as raised:
        failed.raise_for_gates()
    told = command("gate", run.folder, "--set", "gates.cost.size_bytes=10")
    assert raised.value.exit_code == failed.exit_code == told.code


def test_a_baseline_is_written_and_compared_with(compiled: Compiled, tmp_path: Path) -> None:
    judged = edgemtl.gate(compiled.run("cpu"))
    judged.save_baseline(tmp_path / "baseline.json")
    judged.write_junit(tmp_path / "junit.xml")
    again = edgemtl.gate(
        compiled.bundle("cpu"),
        baseline=tmp_path / "baseline.json",
        overrides={"gates.allow_not_measured": ["latency", "regression.latency"]},
    )
    assert again.changes and "Nothing got worse than allowed." in str(again)
    assert (tmp_path / "junit.xml").read_text("utf-8").startswith("<")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(edgemtl.InputRefused, match="not a run folder"):
        edgemtl.load_run(tmp_path)


# --- models and bundles ---------------------------------------------------------------------------


def test_a_model_stands_for_its_file_as_long_as_it_is_that_network(
    dense_work: DenseWork, tmp_path: Path
) -> None:
    model = edgemtl.load_model(dense_work.model, factory=FACTORY)
    assert model.tasks == ("parts", "distance") and model.parameters > 0 and model.macs > 0
    assert str(dense_work.model) in str(model) and repr(model).startswith("Model(")
    found = edgemtl.inspect(model)
    assert (found.parameters, found.macs) == (model.parameters, model.macs)
    assert found.input_size == model.input_size and "parts" in str(found)
    with torch.no_grad():
        next(model.network.parameters()).add_(1.0)
    with pytest.raises(edgemtl.UsageError, match="no longer those of its file"):
        edgemtl.export(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_bundle_says_what_the_run_says(compiled: Compiled) -> None:
    run = edgemtl.load_run(compiled.run("cpu"))
    bundle = edgemtl.load_bundle(compiled.bundle("cpu"))
    assert (bundle.target, bundle.backend) == ("cpu", "onnxruntime")
    assert bundle.macs == run.macs and bundle.size_bytes == run.size_bytes
    for name, task in bundle.tasks.items():
        assert task.value == run.tasks[name].value and str(task) in str(bundle)
    verified = edgemtl.verify(bundle)
    assert verified.sha256 == bundle.sha256 and verified.files == len(bundle.files)
    assert "files whole" in str(verified) and not verified.signed


def test_evaluating_is_what_the_verb_prints(compiled: Compiled) -> None:
    bundle, data = compiled.bundle("cpu"), compiled.work.data
    found = edgemtl.evaluate(edgemtl.load_bundle(bundle), data, limit=2)
    told = command("eval", bundle, "--data", data, "--limit", "2", "--json").json()
    assert {name: task.figures for name, task in found.tasks.items()} == told["tasks"]
    assert found.images == told["images"] == 2
    assert "parts" in str(found) and found.compared_with == ""


def test_exporting_comparing_and_timing(
    compiled: Compiled, model: edgemtl.Model, tmp_path: Path
) -> None:
    exported = edgemtl.export(model, tmp_path / "model.onnx", tasks="parts")
    assert set(exported.tasks) == {"parts"} and str(exported.opset) in str(exported)
    same = edgemtl.parity(model, exported, data=compiled.work.data, images=1)
    assert same.passed and same.tasks == {"parts": True} and str(same).startswith("ok")
    timed = edgemtl.bench(exported, **QUICK)  # type: ignore[arg-type]
    assert timed.latency.runs >= 20 and "p50" in str(timed)
    assert timed.passed == timed.stable == (timed.reason == "")


def test_forms_that_differ_are_told_and_raise_when_asked(
    compiled: Compiled, model: edgemtl.Model, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.pt"
    state = {name: value * 1.5 for name, value in model.network.state_dict().items()}
    torch.save(state, changed)
    found = edgemtl.parity(model, changed, data=compiled.work.data, images=1)
    assert not found.passed and found.exit_code == edgemtl.ExitCode.PARITY
    with pytest.raises(edgemtl.ParityFailed, match="differ by more than"):
        found.raise_for_gates()


# --- smaller networks -----------------------------------------------------------------------------


def test_quantising_says_what_it_wrote(
    compiled: Compiled, model: edgemtl.Model, tmp_path: Path
) -> None:
    found = edgemtl.quantize(
        model,
        tmp_path / "int8.onnx",
        data=compiled.work.data,
        precision="int8",
        budgets={"parts": 1.0, "distance": 1.0},
        images=2,
        overrides={"quantize.judge_images": 1, "quantize.correct_bias": False},
    )
    story = json.loads((tmp_path / "int8.onnx.quantize.json").read_text("utf-8"))
    assert found.story == story and found.precision == "int8"
    assert found.passed == story["result"]["within_budgets"]
    assert "precision int8" in str(found) and repr(found).startswith("Quantized(")


def test_pruning_says_what_it_wrote_and_which_goal_it_missed(tmp_path: Path) -> None:
    work = write_dense_work(tmp_path, images=12)
    prune = functools.partial(
        edgemtl.prune,
        work.model,
        data=work.data,
        factory=FACTORY,
        method="l1-uniform",
        steps=0,
        overrides={"prune.oracle_images": 4, "prune.calibration_images": 4},
    )
    pruned = prune(tmp_path / "pruned.pt", flops=0.9)
    story = json.loads((tmp_path / "pruned.pt.prune.json").read_text("utf-8"))
    assert pruned.story == story and pruned.method == "l1-uniform"
    assert pruned.macs.ratio is not None and pruned.macs.ratio <= 0.9 and pruned.passed
    assert pruned.macs.after == story["pruned"]["macs"]
    assert "macs" in str(pruned) and repr(pruned).startswith("Pruned(")
    assert pruned.write_report(tmp_path / "page.html").is_file()
    smaller = edgemtl.load_model(pruned, factory=FACTORY)
    assert smaller.macs < edgemtl.load_model(work.model, factory=FACTORY).macs
    missed = prune(tmp_path / "tiny.pt", flops=0.001)
    assert not missed.passed and missed.exit_code == edgemtl.ExitCode.COST_GATE
    assert [(goal.key, goal.missed) for goal in missed.goals] == [("flops", True)]
    with pytest.raises(edgemtl.GatesFailed, match="the flops goal was missed"):
        missed.raise_for_gates()
