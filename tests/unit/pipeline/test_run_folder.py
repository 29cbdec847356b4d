"""The run folder: refused when it is somebody else's, tidied when a run begins."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from edgemtl.errors import StageFailed
from edgemtl.pipeline.run_folder import LOCK, PRIVATE, RunFolder, new_name, read_run
from edgemtl.pipeline.stage import StageRecord


def begun(folder: Path, **facts: Any) -> RunFolder:
    run = RunFolder(folder)
    run.begin({"name": "model", **facts})
    return run


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    begun(tmp_path / "a" / "b")
    run = json.loads((tmp_path / "a" / "b" / "run.json").read_text("utf-8"))
    assert (run["name"], run["status"], run["exit_code"]) == ("model", "running", None)
    assert run["versions"]["python"] and run["machine"]["cores"] == os.cpu_count()


@pytest.mark.parametrize("name", ["thesis.tex", ".git", "run.jsonl", "bundle", ".run.jsonx"])
def test_a_folder_with_other_things_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(StageFailed, match="other files"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_where_a_run_was_killed_at_once_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    (tmp_path / PRIVATE).mkdir()
    (tmp_path / ".run.json.x1y2").write_text("{")
    begun(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, "run.json"}


def test_what_an_earlier_run_left_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.add_stage(1, StageRecord("model", "done", 1.0, "key", ("said",)))
    ours = ["gates.json", "junit.xml", "report.html", "report.md", "accuracy.json", "cost.json"]
    ours += ["parity.json", "recipe.resolved.toml", ".gates.json.abc", ".report.html.def"]
    ours += ["bundle/old.edgemtl", "bench/artefact.json", "pictures/a.png", "model/model.onnx"]
    for name in [*ours, "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    begun(tmp_path, name="again")
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "notes.txt"}
    assert read_run(tmp_path)["name"] == "again"


def test_stages_are_recorded_in_order_with_what_they_said(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.add_stage(1, StageRecord("model", "cached", 0.12345, "k1", ("one", "two")))
    run.add_stage(2, StageRecord("export", "failed", 2.0, "", ()))
    first = json.loads((tmp_path / "stages/01-model/stage.json").read_text("utf-8"))
    assert first["notes"] == ["one", "two"]
    assert (tmp_path / "stages/01-model/log.txt").read_text("utf-8") == "one\ntwo\n"
    assert not (tmp_path / "stages/02-export/log.txt").exists()
    stages = read_run(tmp_path)["stages"]
    assert [(stage["name"], stage["status"]) for stage in stages] == [
        ("model", "cached"),
        ("export", "failed"),
    ]
    assert stages[0]["seconds"] == 0.123


def test_files_are_published_whole(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    run.publish(source, "bundle/a.edgemtl")
    run.publish(source, "bundle/a.edgemtl")
    run.publish(tmp_path / "absent", "bundle/b.edgemtl")
    assert [path.name for path in (tmp_path / "run" / "bundle").iterdir()] == ["a.edgemtl"]
    assert (tmp_path / "run" / "bundle" / "a.edgemtl").read_bytes() == source.read_bytes()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StageFailed):
            RunFolder(place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "3", '"run"', "\udcff"])
def test_what_is_no_run_reads_as_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_run(tmp_path) == {}


def test_names_tell_when_what_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    name = new_name(Path("some") / "net.pt", "0123456789abcdef")
    stamp, model, key = name.split("-")
    assert time.strptime(stamp, "%Y%m%dT%H%M%SZ")
    assert (model, key) == ("net", "01234567")


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    begun(tmp_path)
    with FileLock(tmp_path / LOCK):
        RunFolder(tmp_path)  # looking is allowed; compile takes the lock before it begins
    assert read_run(tmp_path)["status"] == "running"
