"""The main job with a network that has nothing to do with faces, through every verb."""

from __future__ import annotations

import json
import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import pytest
from conftest import Compiled
from support import run_page
from support.command import edgemtl
from support.dense_work import FACTORY, NO_BENCH, QUICK_BENCH, DenseWork

from edgemtl import recipes
from edgemtl.record.run_record import versioned

TARGETS = ("cpu", "intel-cpu")
TASKS = {"parts", "distance"}
STAGES = [
    "model",
    "export",
    "compile",
    "parity",
    "accuracy-reference",
    "accuracy",
    "cost-reference",
    "cost",
    "bundle",
    "pictures",
    "bench",
    "gates",
]
#: as they are shown: whether to prune was left open, and too few pictures answered it
SHOWN = [STAGES[0], "prune", *STAGES[1:]]
#: words of the other network family, which have no business here
FACE_WORDS = re.compile(r"\b(faces?|landmarks?|poses?|yaw|pitch|retinaface|mos)\b", re.IGNORECASE)

picked = pytest.mark.parametrize("target", TARGETS)


def test_the_gates_pass(compiled: Compiled) -> None:
    assert compiled.told.code == 0, compiled.told.err
    assert "Traceback" not in compiled.told.err


@picked
def test_every_stage_is_told_in_a_line(compiled: Compiled, target: str) -> None:
    told = re.findall(r"^\[ *(\d+)/13\] (\S+)", compiled.told.err, re.MULTILINE)
    numbered = [(str(number), name) for number, name in enumerate(SHOWN, 1)]
    assert told == numbered * len(TARGETS)
    assert str(compiled.bundle(target)) in compiled.told.out
    assert str(compiled.run(target) / "report.html") in compiled.told.out


@picked
def test_the_run_folder_is_complete(compiled: Compiled, target: str) -> None:
    folder = compiled.run(target)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        "run.json",
        "recipe.resolved.toml",
        "parity.json",
        "accuracy.json",
        "cost.json",
        "gates.json",
        "junit.xml",
        "report.html",
        "report.md",
        "model/model.onnx",
        "bench/artefact.json",
        f"bundle/dense-{target}.edgemtl",
    }
    assert expected <= files
    for number, name in enumerate(SHOWN, 1):
        assert f"stages/{number:02d}-{name}/stage.json" in files
    assert sum(name.startswith("pictures/") for name in files) == 2 * 3
    hidden = {name for name in files if any(part[0] == "." for part in Path(name).parts)}
    assert hidden == {".lock"}
    assert run_page.problems(folder) == []


@picked
def test_run_json_tells_what_was_done(compiled: Compiled, target: str) -> None:
    run = json.loads((compiled.run(target) / "run.json").read_text("utf-8"))
    assert (run["status"], run["exit_code"], run["error"]) == ("passed", 0, None)
    assert run["bundle"] == f"bundle/dense-{target}.edgemtl"
    assert run["target"]["name"] == target
    assert [stage["name"] for stage in run["stages"]] == SHOWN
    assert {stage["status"] for stage in run["stages"] if stage["name"] != "prune"} <= {
        "done",
        "cached",
    }


@picked
def test_the_resolved_recipe_gives_the_same_recipe(compiled: Compiled, target: str) -> None:
    text = (compiled.run(target) / "recipe.resolved.toml").read_text("utf-8")
    run = json.loads((compiled.run(target) / "run.json").read_text("utf-8"))
    again = recipes.validate(tomllib.loads(text), "recipe.resolved.toml")
    assert again.to_dict() == run["recipe"]


@picked
def test_gates_and_junit_agree(compiled: Compiled, target: str) -> None:
    folder = compiled.run(target)
    gates = json.loads((folder / "gates.json").read_text("utf-8"))
    assert gates["passed"] and {o["status"] for o in gates["outcomes"]} == {"pass"}
    judged = {o["name"].split(".")[1] for o in gates["outcomes"] if o["name"].startswith("tasks.")}
    assert judged == TASKS
    suite = ET.parse(folder / "junit.xml").getroot()
    assert len(list(suite.iter("testcase"))) == len(gates["outcomes"])
    assert list(suite.iter("failure")) == []


@picked
def test_accuracy_is_of_both_forms_and_says_how_to_read_it(compiled: Compiled, target: str) -> None:
    found = json.loads((compiled.run(target) / "accuracy.json").read_text("utf-8"))
    assert set(found["metrics"]) == TASKS
    for side in ("reference", "artefact"):
        assert set(found[side]["tasks"]) == TASKS
        assert found[side]["images"] == 3
    for task, metric in found["metrics"].items():
        key = metric["primary"]["key"]
        before = found["reference"]["tasks"][task][key]
        assert before == pytest.approx(found["artefact"]["tasks"][task][key], rel=1e-3)


@picked
def test_nothing_speaks_of_faces(compiled: Compiled, target: str) -> None:
    folder = compiled.run(target)
    texts = {path: path.read_text("utf-8") for path in folder.rglob("*") if path.suffix in _TEXT}
    texts[Path("stdout")] = compiled.told.out
    texts[Path("stderr")] = compiled.told.err
    assert len(texts) > 10
    found = {
        str(path): FACE_WORDS.findall(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
        for path, text in texts.items()
    }
    assert {path: words for path, words in found.items() if words} == {}


_TEXT = (".json", ".toml", ".xml", ".html", ".md", ".txt")


@picked
def test_the_bundle_verifies(compiled: Compiled, target: str) -> None:
    told = edgemtl("verify", compiled.bundle(target), "--json")
    assert told.code == 0, told.err
    assert told.json()["cases"] == 1


@picked
def test_the_bundle_runs_on_a_image(compiled: Compiled, target: str, tmp_path: Path) -> None:
    image = compiled.work.data / "val" / "images" / "0001.jpg"
    drawn = tmp_path / "drawn.png"
    told = edgemtl("run", compiled.bundle(target), image, "-o", drawn, "--json")
    assert told.code == 0, told.err
    assert set(told.json()["tasks"]) == TASKS
    before, after = cv2.imread(str(image)), cv2.imread(str(drawn))
    assert after is not None and after.shape[0] >= before.shape[0]
    assert after.shape != before.shape or (after != before).any()
    assert not FACE_WORDS.search(told.out)


def test_checkpoint_onnx_and_bundles_agree(compiled: Compiled) -> None:
    data = ("--data", compiled.work.data, "--split", "val", "--json")
    checkpoint = edgemtl("eval", compiled.work.model, "--factory", FACTORY, *data)
    onnx = edgemtl("eval", compiled.run("cpu") / "model" / "model.onnx", *data)
    bundles = [edgemtl("eval", compiled.bundle(target), *data) for target in TARGETS]
    reports = [told.json() for told in (checkpoint, onnx, *bundles)]
    assert all(report["images"] == 3 and set(report["tasks"]) == TASKS for report in reports)
    for report in reports[1:]:
        for task, figures in reports[0]["tasks"].items():
            assert report["tasks"][task] == pytest.approx(figures, rel=1e-3), task


@picked
def test_gates_are_judged_again_from_what_was_stored(
    compiled: Compiled, target: str, tmp_path: Path
) -> None:
    stored = json.loads((compiled.run(target) / "gates.json").read_text("utf-8"))
    again = edgemtl("gate", compiled.run(target), "--json")
    assert again.code == 0 and versioned(again.json()) == stored

    junit = tmp_path / "junit.xml"
    strict = edgemtl(
        "gate", compiled.run(target), "--set=gates.cost.size_bytes=10", "--junit", junit, "--json"
    )
    failed = [o["name"] for o in strict.json()["outcomes"] if o["status"] == "fail"]
    assert (strict.code, failed) == (7, ["cost.size_bytes"])
    assert b"<failure" in junit.read_bytes()

    impossible = edgemtl("gate", compiled.run(target), "--set=gates.tasks.parts.min=2", "--json")
    assert impossible.code == 6


@picked
def test_a_bundle_is_judged_like_its_run(compiled: Compiled, target: str) -> None:
    told = edgemtl("gate", compiled.bundle(target), "--json")
    names = {o["name"]: o["status"] for o in told.json()["outcomes"]}
    assert told.code == 0, told.out
    assert names["tasks.parts.max_relative_drop"] == "pass"
    assert names["cost.macs_ratio"] == "pass"


BENCH = ("--seconds=0.1", "--min-runs=5", "--max-seconds=1", "--warmup-seconds=0")


@picked
def test_bench_prints_latency(compiled: Compiled, target: str, tmp_path: Path) -> None:
    kept = tmp_path / "latency.json"
    told = edgemtl("bench", compiled.bundle(target), *BENCH, "--json", "-o", kept)
    assert told.code in (0, 9), told.err  # 9: this machine has other things to do
    found = told.json()
    assert found == json.loads(kept.read_text("utf-8"))
    summary = found["summary"]
    assert 0 < summary["p50_ms"] <= summary["p90_ms"] <= summary["p99_ms"]
    assert found["stable"] == (told.code == 0)


def test_bench_prints_the_ratio_of_two(compiled: Compiled) -> None:
    pair = (compiled.bundle("cpu"), "--against", compiled.bundle("intel-cpu"))
    told = edgemtl("bench", *pair, *BENCH, "--json")
    assert told.code in (0, 9), told.err
    ratio = told.json()["speedup"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_parity_compares_two_forms(compiled: Compiled) -> None:
    other = compiled.bundle("intel-cpu")
    told = edgemtl(
        *("parity", compiled.work.model, other, "--factory", FACTORY),
        *("--data", compiled.work.data, "--images=2", "--json"),
    )
    assert told.code == 0, told.err
    found = told.json()
    assert found["passed"] and {output["task"] for output in found["outputs"]} == TASKS


def test_inspect_tells_params_macs_and_tasks(compiled: Compiled) -> None:
    network = edgemtl(
        *("inspect", compiled.work.model, "--factory", FACTORY),
        *("--target=cpu", "--target=intel-cpu", "--json"),
    ).json()
    assert set(network["tasks"]) == TASKS
    assert network["params"] > 20_000 and network["macs"] > 1_000_000
    for task in network["tasks"].values():
        assert 0 < task["params"] < network["params"] and 0 < task["macs"] < network["macs"]
    assert {name: found["problems"] for name, found in network["targets"].items()} == {
        "cpu": [],
        "intel-cpu": [],
    }
    for target in TARGETS:
        bundle = edgemtl("inspect", compiled.bundle(target), "--json").json()
        assert set(bundle["tasks"]) == TASKS
        assert bundle["target"]["name"] == target


def test_report_is_written_anew(compiled: Compiled) -> None:
    page = compiled.run("cpu") / "report.html"
    before = page.read_bytes()
    page.unlink()
    told = edgemtl("report", compiled.run("cpu"))
    assert (told.code, told.out.strip()) == (0, str(page))
    assert page.read_bytes() == before


def test_the_same_bytes_from_fresh_caches_in_other_folders(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_CACHE", str(tmp_path / "cache"))
    flags = [*compiled.work.flags(), *QUICK_BENCH, "--until-stage=bundle"]
    for target in TARGETS:
        first = edgemtl("compile", *flags, "--target", target, "-o", tmp_path / target, "--json")
        assert first.code == 0, first.err
        assert Path(first.json()["bundle"]).read_bytes() == compiled.bundle(target).read_bytes()
        # The two targets share what does not depend on the runtime.
        fresh = {"done"} if target == "cpu" else {"done", "cached"}
        assert _statuses(tmp_path / target) == fresh

    again = edgemtl("compile", *flags, "--target=cpu", "-o", tmp_path / "again", "--json")
    assert Path(again.json()["bundle"]).read_bytes() == compiled.bundle("cpu").read_bytes()
    assert _statuses(tmp_path / "again") == {"cached"}


def _statuses(run: Path, names: tuple[str, ...] = ()) -> set[str]:
    stages = json.loads((run / "run.json").read_text("utf-8"))["stages"]
    wanted = names or STAGES
    return {stage["status"] for stage in stages if stage["name"] in wanted}


def test_stages_can_be_chosen(dense_work: DenseWork, compiled: Compiled, tmp_path: Path) -> None:
    flags = [*dense_work.flags(), "--target=cpu", *QUICK_BENCH]

    until = tmp_path / "until"
    told = edgemtl("compile", *flags, "-o", until, "--until-stage=compile")
    assert told.code == 0, told.err
    run = json.loads((until / "run.json").read_text("utf-8"))
    assert [stage["name"] for stage in run["stages"]] == ["model", "prune", "export", "compile"]
    assert run["bundle"] is None and not (until / "bundle").exists()
    assert (until / "report.html").exists()

    anew = tmp_path / "anew"
    told = edgemtl(
        "compile", *flags, "-o", anew, "--from-stage=cost", "--until-stage=bundle", "--json"
    )
    assert told.code == 0, told.err
    assert _statuses(anew, ("model", "export", "accuracy", "cost-reference")) == {"cached"}
    assert _statuses(anew, ("cost", "bundle")) == {"done"}
    assert Path(told.json()["bundle"]).read_bytes() == compiled.bundle("cpu").read_bytes()

    nothing = tmp_path / "nothing"
    told = edgemtl("compile", *flags, "-o", nothing, "--no-cache", "--until-stage=model")
    assert (told.code, _statuses(nothing)) == (0, {"done"})


def test_dry_run_does_nothing(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("compile", *dense_work.flags(), "--target=cpu", "--target=intel-cpu", "--dry-run")
    told = edgemtl(*flags, "--json", "--until-stage=cost", "--set=bench.threads=3")
    assert told.code == 0, told.err
    assert [plan["target"] for plan in told.json()] == list(TARGETS)
    for plan in told.json():
        assert plan["stages"] == STAGES[: STAGES.index("cost") + 1]
        assert plan["recipe"]["bench"]["threads"] == 3
    plain = edgemtl(*flags)
    assert plain.code == 0 and "target intel-cpu: model, export" in plain.out
    assert list(tmp_path.iterdir()) == []


def test_a_gate_that_fails_fails_the_run_but_keeps_its_results(
    dense_work: DenseWork, tmp_path: Path
) -> None:
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=cpu", "-o", tmp_path / "run", "--json"),
        *(*NO_BENCH, "--set=gates.tasks.distance.max=0.001", "--set=gates.cost.size_bytes=10"),
    )
    assert told.code == 6  # accuracy is more serious than size
    summary = told.json()
    assert Path(summary["bundle"]).exists() and summary["error"] is None
    failed = {o["name"] for o in summary["gates"]["outcomes"] if o["status"] == "fail"}
    assert failed == {"tasks.distance.max", "cost.size_bytes"}
    run = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert (run["status"], run["exit_code"]) == ("gates failed", 6)


def test_a_gate_that_is_switched_off_stays_off_when_judged_again(
    dense_work: DenseWork, tmp_path: Path
) -> None:
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=cpu", "-o", tmp_path / "run", "--json"),
        *("--set=bench.enabled=false", "--set=gates.latency.ratio=false"),
    )
    assert told.code == 0, told.err
    for what in (tmp_path / "run", told.json()["bundle"]):
        again = edgemtl("gate", what, "--json")
        assert "latency.ratio" not in [o["name"] for o in again.json()["outcomes"]]
        assert again.code == 0


def test_kept_tasks_bring_those_they_require(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "mos_t.pt"
    told = edgemtl(
        *("compile", example, "--target=cpu", "--task=pose", "-o", tmp_path / "run", "--json"),
        *("--set=data.limit=2", "--set=export.parity_images=1", "--until-stage=bundle"),
    )
    assert told.code == 0, told.err
    bundle = edgemtl("inspect", told.json()["bundle"], "--json").json()
    assert set(bundle["tasks"]) == {"detection", "pose"}
    images = example.parents[1] / "calib_data" / "faces" / "val" / "images"
    drawn = tmp_path / "drawn.png"
    image = sorted(images.iterdir())[0]
    ran = edgemtl("run", told.json()["bundle"], image, "-o", drawn, "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json()["tasks"]) == {"detection", "pose"} and drawn.exists()
