"""The composite action and the page about CI: what they call exists and does what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.run_folder import edit, write_run

from edgemtl.files import sha256_file
from edgemtl.gates.snapshot import Snapshot

ROOT = Path(__file__).resolve().parents[3]
EDGEMTL = Path(sys.executable).with_name("edgemtl")


def read_yaml(text: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not here; extra 'dev' brings it")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    return read_yaml((ROOT / "action.yml").read_text("utf-8"))


def run_step(
    action: dict[str, Any], folder: Path, **inputs: str
) -> subprocess.CompletedProcess[str]:
    """Run the action's one step as GitHub's runner would."""
    (step,) = action["runs"]["steps"]
    given = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()}
    given |= inputs
    environment = {
        key: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: given[m[1]], value)
        for key, value in step["env"].items()
    }
    assert "${{" not in step["run"]  # an input in the script itself could end a command
    environment |= {
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_action_fails_and_tells_when_a_run_is_worse(
    action: dict[str, Any], tmp_path: Path
) -> None:
    if not EDGEMTL.exists():
        pytest.skip("the console script is not installed beside this Python")
    before = write_run(tmp_path / "before")
    after = shutil.copytree(before, tmp_path / "the run; of today")

    def worsen(accuracy: dict[str, Any]) -> None:
        accuracy["artefact"]["tasks"]["pose"]["mae_deg"] = 9.0

    edit(after, "accuracy.json", worsen)
    done = run_step(
        action,
        tmp_path,
        run=after.name,
        baseline="before",
        edgemtl=str(EDGEMTL),
        arguments="--set=gates.tasks.pose.max_relative_drop=false\n--set=gates.regression.max_p99=false\n",
    )
    assert done.returncode == 6, done.stderr
    assert "::error title=regression tasks.pose.mae_deg::" in done.stdout
    assert (tmp_path / "output").read_text("utf-8") == "exit-code=6\n"
    comment = (tmp_path / "edgemtl-gate" / "comment.md").read_text("utf-8")
    assert "tasks.pose" in (tmp_path / "summary").read_text("utf-8") and "47.5" in comment
    assert sorted(p.name for p in (tmp_path / "edgemtl-gate").iterdir()) == [
        "bencher.json",
        "comment.md",
        "junit.xml",
    ]


def test_the_workflow_in_the_docs_fits_the_action(action: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "ci.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    steps = read_yaml(block)["jobs"]["regression"]["steps"]
    (gate,) = [step for step in steps if step.get("id") == "gate"]
    assert set(gate["with"]) <= set(action["inputs"])
    required = {name for name, entry in action["inputs"].items() if entry.get("required")}
    assert required <= set(gate["with"])


def test_flags_and_keys_on_the_page_exist() -> None:
    page = (ROOT / "docs" / "ci.md").read_text("utf-8")
    verbs = (ROOT / "docs" / "verbs.md").read_text("utf-8")
    own = {"--short", "--name", "--dir", "--body-file", "--edit-last", "--create-if-none"}
    own |= {"--adapter", "--file"}
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - own
    assert flags and {flag for flag in flags if f"`{flag}" not in verbs} == set()
    recipe = (ROOT / "docs" / "recipe.md").read_text("utf-8")
    keys = set(re.findall(r"gates\.regression\.(max_\w+)", page))
    assert keys and {key for key in keys if f"| `{key}` |" not in recipe} == set()


def test_the_committed_baseline_is_the_examples() -> None:
    path = ROOT / "examples" / "baselines" / "mos_m-cpu.json"
    baseline = Snapshot.from_dict(json.loads(path.read_text("utf-8")), str(path))
    assert set(baseline.tasks) == {"detection", "landmarks", "pose"}
    assert all(any(row.primary for row in rows.values()) for rows in baseline.tasks.values())
    assert baseline.latency is None  # taken on a shared machine it would say nothing
    model = sha256_file(ROOT / "examples" / "mos_m.pt")
    assert baseline.source["model_sha256"] == model, (
        "run 'make regress' and save the baseline again"
    )
