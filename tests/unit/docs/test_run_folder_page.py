"""``docs/run-folder.md`` names every file of a run folder, and no key that nothing writes.

That the keys are those of a compile is tested where compiles are (``run_page.problems``).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import run_page

from edgemtl.pipeline.run_folder import FILES
from edgemtl.record.run_record import BENCH, RUN, SCHEMA_VERSION, TIMINGS, versioned

ROOT = Path(__file__).resolve().parents[3]
OLD = ROOT / "tests" / "fixtures" / "version_2" / "run"


def test_every_file_has_its_place_on_the_page() -> None:
    written = {name for name in FILES if name.endswith(".json")} | {RUN, "stages/*/stage.json"}
    assert set(run_page.files()) == written | {f"{BENCH}/{name}" for name in TIMINGS}


def test_the_page_tells_the_version_of_today() -> None:
    page = run_page.PAGE.read_text("utf-8")
    assert f"It is **{SCHEMA_VERSION}** now." in page
    assert re.findall(r"^\| (\d) \| 20", page, re.MULTILINE) == [
        str(number) for number in range(1, SCHEMA_VERSION + 1)
    ]


def test_every_key_is_a_word_of_the_code() -> None:
    code = "\n".join(path.read_text("utf-8") for path in sorted(ROOT.glob("edgemtl/**/*.py")))
    known = set(re.findall(r"\w+", code))
    tables = run_page.tables(run_page.PAGE.read_text("utf-8"))
    names = {
        part.removesuffix("[]")
        for rows in tables.values()
        for key, *_ in rows
        for part in key.strip("`").split(".")
        if not part.startswith("<")
    }
    assert names - known == set()
    assert len(names) > 150


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as it is written today, made of an old one."""
    folder = Path(shutil.copytree(OLD, tmp_path / "run"))
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(versioned(json.loads(path.read_text("utf-8")))), "utf-8")
    assert run_page.problems(folder) == []
    return folder


def _swapped(data: dict[str, Any]) -> None:
    data["status"] = data.pop("status")
    data["schema_version"] = data.pop("schema_version")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("run.json", lambda d: d.update(mood="good"), "'mood' is not on the page"),
        ("run.json", lambda d: d.pop("machine"), "'machine' is on the page and was not written"),
        ("run.json", lambda d: d["stages"][0].pop("key"), "'stages.key' is on the page and"),
        ("run.json", _swapped, "the version does not come first"),
        ("cost.json", lambda d: d["artefact"].update(macs="9"), "'artefact.macs' is str"),
        ("cost.json", lambda d: d["artefact"].update(macs=None), "'artefact.macs' is null"),
        ("gates.json", lambda d: d["outcomes"][0].update(allowed=1), "'outcomes.allowed' is int"),
        ("gates.json", lambda d: d.update(exit_code=True), "'exit_code' is bool"),
        ("accuracy.json", lambda d: d["artefact"].update(skipped=[1]), "'artefact.skipped[]' is"),
    ],
)
def test_a_difference_is_seen(
    run: Path, name: str, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    data = json.loads((run / name).read_text("utf-8"))
    change(data)
    (run / name).write_text(json.dumps(data), "utf-8")
    (found,) = run_page.problems(run)
    assert found.startswith(f"{name}: ") and said in found


def test_a_file_that_the_page_does_not_have_is_seen(run: Path) -> None:
    (run / "more.json").write_text('{"schema_version": 3}', "utf-8")
    assert run_page.problems(run) == ["more.json: the page does not have this file"]
