"""Several graphs in one bundle: the manifest's one section, read alike by sessions and runner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import with_manifest

from edgemtl.backends import registry
from edgemtl.backends.taskfiles import TaskSessions, for_task
from edgemtl.bundle import BundleContents, open_bundle, write_bundle
from edgemtl.bundle.manifest import SCHEMA_VERSION
from edgemtl.devices.runner.cli import main
from edgemtl.errors import InputRefused, UsageError
from edgemtl.targets import load

FIXTURES = Path(__file__).parents[2] / "fixtures"
BEFORE = FIXTURES / "before_house"
SECOND = FIXTURES / "version_2" / "run" / "bundle" / "dense-cpu.edgemtl"
OLD = BEFORE / "run_int8" / "bundle" / "dense-cpu.edgemtl"
TASKS = ["distance", "parts"]  # version 1 sorted them


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of version 1 with a graph per task, written anew."""
    folder = tmp_path_factory.mktemp("new")
    bundle = open_bundle(OLD)
    (folder / "artefact").mkdir()
    (folder / "model.onnx").write_bytes(bundle.read("model.onnx"))
    entry = bundle.manifest
    contents = BundleContents(
        name="again",
        source_sha256=entry.source_sha256,
        onnx=folder / "model.onnx",
        artefact=bundle.artefact(folder / "artefact"),
        target=load("cpu"),
        input_name=entry.inputs[0].name,
        input_spec=bundle.input_spec(),
        tasks=bundle.tasks(),
        selftest=bundle.selftest(),
        session=bundle.session_options(),
    )
    write_bundle(folder / "new.edgemtl", contents)
    return folder / "new.edgemtl"


def told(capfd: Any, *argv: object) -> tuple[int, Any, str]:
    capfd.readouterr()
    code = main([str(word) for word in argv], "nowhere.edgemtl")
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def test_both_versions_name_the_same_variants(new: Path, capfd: Any) -> None:
    first, second = open_bundle(OLD), open_bundle(new)
    assert (first.manifest.schema_version, second.manifest.schema_version) == (1, SCHEMA_VERSION)
    assert [one.name for one in second.manifest.variants] == TASKS
    listed = []
    for path in (OLD, new):
        code, document, _ = told(capfd, "info", "--bundle", path)
        assert code == 0
        listed.append(document["variants"])
    assert listed[0] == listed[1]
    assert [(one["name"], one["kind"]) for one in listed[1]] == [(t, "task") for t in TASKS]
    assert listed[1][0]["outputs"] == ["distance.depth"]


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION])
@pytest.mark.parametrize("task", TASKS)
def test_sessions_and_runner_open_a_variant_alone(
    new: Path, tmp_path: Path, capfd: Any, version: int, task: str
) -> None:
    path = OLD if version == 1 else new
    bundle = open_bundle(path)
    artefact, recorded = bundle.artefact(tmp_path), bundle.selftest()
    sessions = TaskSessions(artefact, [task], bundle.session_options())
    (own,) = [t for t in bundle.tasks() if t.name == task]
    found = sessions.run(task, recorded.inputs[0])
    assert tuple(found) == own.outputs
    sessions.close()
    for name, value in found.items():
        apart = float(np.abs(value - recorded.expected[name][0]).max())
        assert apart <= recorded.max_abs_error[name]
    code, document, err = told(capfd, "verify", "--bundle", path, "--variant", task)
    assert code == 0, err
    assert document["variant"] == task and document["selftest"]["passed"]
    assert [row["output"] for row in document["selftest"]["outputs"]] == list(own.outputs)


def test_what_is_not_there_is_asked_for_in_vain(new: Path, tmp_path: Path, capfd: Any) -> None:
    artefact = open_bundle(new).artefact(tmp_path)
    with pytest.raises(UsageError, match="no variant 'nose'"):
        artefact.variant("nose")
    with pytest.raises(UsageError, match="no graph of task 'nose'"):
        for_task(artefact, "nose")
    code, _, err = told(capfd, "bench", "--bundle", new, "--variant", "nose")
    assert code == 2 and "distance, parts" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("whose", "reads"), [(OLD, "1"), (SECOND, "1 and 2")], ids=["version 1", "version 2"]
)
def test_an_older_runner_says_that_the_bundle_is_newer(
    new: Path, tmp_path: Path, whose: Path, reads: str
) -> None:
    runner = tmp_path / "runner.pyz"
    runner.write_bytes(open_bundle(whose).read("runner.pyz"))
    command = [sys.executable, str(runner), "verify", "--bundle", str(new)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    said = f"the manifest has schema version {SCHEMA_VERSION}, this runner reads {reads}"
    assert said in done.stderr.partition(";")[0].strip()
    assert done.stderr.count("\n") == 1


def test_this_runner_says_that_a_later_bundle_is_newer(new: Path, capfd: Any) -> None:
    def later(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = SCHEMA_VERSION + 1

    kept = new.read_bytes()
    try:
        with_manifest(new, later)
        code, document, err = told(capfd, "verify", "--bundle", new)
        assert (code, document) == (3, None)
        assert "schema version 4, this runner reads 1 and 2 and 3; use the runner inside" in err
        with pytest.raises(InputRefused, match="version 4, this EdgeMTL reads 1 and 2 and 3"):
            open_bundle(new)
    finally:
        new.write_bytes(kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": ["elsewhere.onnx"]}, "no file of it"),
        ({"files": ["../up.onnx"]}, "variants.0.files.0"),
        ({"name": "parts"}, "one name"),
        ({"kind": "colour"}, "variants.0.kind"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(
    new: Path, change: dict[str, Any], said: str
) -> None:
    kept = new.read_bytes()
    try:
        with_manifest(new, lambda manifest: manifest["variants"][0].update(change))
        with pytest.raises(InputRefused, match=said):
            open_bundle(new)
    finally:
        new.write_bytes(kept)


def test_a_network_behind_a_router_is_a_variant(tmp_path: Path) -> None:
    """A bundle of version 1 keeps its router, and names none; see test_routed for new ones."""
    bundle = open_bundle(BEFORE / "routed.edgemtl")
    artefact = bundle.artefact(tmp_path)
    assert artefact.variants == ()
    session = registry.get(artefact.backend).load(artefact, bundle.session_options())
    assert session.run(bundle.selftest().inputs[0])
    session.close()
