"""``gate --baseline``, ``diff`` and ``history`` on stored runs, from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import junitparser
import pytest
from support.command import edgemtl
from support.run_folder import edit, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def worse(run: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(run, tmp_path / "worse")

    def worsen(accuracy: dict[str, Any]) -> None:
        accuracy["artefact"]["tasks"]["pose"]["mae_deg"] = 9.0

    edit(folder, "accuracy.json", worsen)
    return folder


def test_the_baseline_of_a_run_lets_the_run_pass(run: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    saved = edgemtl("gate", run, "--save-baseline", baseline)
    assert saved.code == 0, saved.err
    told = edgemtl("gate", run, "--baseline", baseline, "--json")
    assert told.code == 0, told.err
    document = told.json()["regression"]
    assert document["passed"]
    assert {c["status"] for c in document["changes"]} == {"pass", "reported"}
    assert edgemtl("gate", run, "--baseline", run).code == 0  # another run will do


def test_a_worse_run_fails_everywhere_that_it_is_shown(
    run: Path, worse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    told = edgemtl(
        "gate",
        worse,
        *("--baseline", run, "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "c.md"),
        *("--bencher", tmp_path / "bmf.json", "--annotations", "--step-summary"),
        "--set=gates.tasks.pose.max_relative_drop=false",
    )
    assert told.code == 6
    assert "Worse than allowed: tasks.pose.mae_deg." in told.out
    assert "::error title=regression tasks.pose.mae_deg::" in told.out
    names = [suite.name for suite in junitparser.JUnitXml.fromfile(str(tmp_path / "j.xml"))]
    assert names == ["edgemtl gates", "edgemtl regression"]
    comment = (tmp_path / "c.md").read_text("utf-8")
    assert "47.5 %" in comment
    assert (tmp_path / "summary.md").read_text("utf-8") == comment + "\n"
    bmf = json.loads((tmp_path / "bmf.json").read_text("utf-8"))
    assert bmf["mos_m for cpu"]["pose-mae-deg"]["value"] == 9.0
    loose = "--set=gates.regression.tasks.pose='50%'"
    off = "--set=gates.tasks.pose.max_relative_drop=false"
    assert edgemtl("gate", worse, "--baseline", run, loose, off).code == 0


def test_the_base_commits_file_is_read_from_git(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.chdir(tmp_path)
    assert edgemtl("gate", run, "--save-baseline", "b.json").code == 0
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "b.json"), (*who, "commit", "-qm", "baseline")):
        subprocess.run(["git", *words], check=True, capture_output=True)
    Path("b.json").write_text("overwritten", "utf-8")
    assert edgemtl("gate", run, "--baseline", "git:HEAD:b.json").code == 0
    for place, code in (
        ("git:HEAD:absent.json", 3),
        ("git:nobranch:b.json", 3),
        ("git:HEAD", 2),
        ("git:--output=x:b.json", 2),
    ):
        told = edgemtl("gate", run, "--baseline", place)
        assert told.code == code and place in told.error()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".git", "b.json"]


def test_what_is_no_baseline_is_refused(run: Path, tmp_path: Path) -> None:
    for name, content in (("a.json", "{}"), ("b.json", "{"), ("c.json", "[]")):
        (tmp_path / name).write_text(content, "utf-8")
        told = edgemtl("gate", run, "--baseline", tmp_path / name)
        assert told.code == 3 and name in told.error()
    assert edgemtl("gate", run, "--baseline", tmp_path / "absent").code == 3
    assert edgemtl("gate", run, "--baseline", tmp_path).code == 3  # a folder that is no run


def test_outputs_that_need_a_baseline_ask_for_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edgemtl("gate", run, "--markdown", tmp_path / "c.md").code == 2
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    told = edgemtl("gate", run, "--baseline", run, "--step-summary")
    assert told.code == 2 and "GITHUB_STEP_SUMMARY" in told.error()


def test_diff_prints_and_judges_nothing(run: Path, worse: Path, tmp_path: Path) -> None:
    told = edgemtl("diff", run, worse, "--html", tmp_path / "d.html")
    assert told.code == 0, told.err
    assert "47.5 % worse" in told.out and str(tmp_path / "d.html") in told.out
    assert "<title>" in (tmp_path / "d.html").read_text("utf-8")
    document = edgemtl("diff", run, worse, "--json").json()
    assert {c["status"] for c in document["changes"]} == {"reported"}
    assert edgemtl("diff", run, tmp_path / "absent").code == 3


def test_history_grows_and_is_drawn(run: Path, worse: Path, tmp_path: Path) -> None:
    file = tmp_path / "trend.jsonl"
    assert edgemtl("history", file).code == 3
    for label, folder in (("a1", run), ("b2", worse)):
        told = edgemtl("history", file, "--add", folder, "--label", label)
        assert told.code == 0, told.err
    assert "mos_m for cpu: 2 runs" in told.out and "▁█" in told.out
    entries = edgemtl("history", file, "--json", "--html", tmp_path / "t.html").json()
    assert [entry["label"] for entry in entries] == ["a1", "b2"]
    assert entries[0]["time_utc"] == "2026-01-02T03:04:05Z"
    assert (tmp_path / "t.html").is_file()
