"""The documentation: built from docstrings that exist, true to the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from edgemtl import errors
from edgemtl.cli.main import app
from edgemtl.errors import SERIOUSNESS, EdgemtlError, ExitCode

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import build_docs  # noqa: E402 - lies in tools/

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def test_everything_public_has_a_docstring() -> None:
    assert build_docs.undocumented() == []


def make_package(folder: Path) -> Path:
    """A package with documented, undocumented and private things."""
    package = folder / "toy"
    package.mkdir()
    (package / "__init__.py").write_text('"""A toy."""\n')
    (package / "_hidden.py").write_text("def secret(): ...\n")
    (package / "room.py").write_text(
        "class Box:\n"
        '    """Holds.\n\n    Attributes:\n        size: in ``px``, see :meth:`grow`,\n'
        '            never negative.\n    """\n'
        "    def grow(self, by: int = 1) -> None:\n"
        '        """Grow."""\n'
        "    def _shrink(self): ...\n"
        "async def bare(): ...\n"
        "def _own(): ...\n"
    )
    return package


def test_what_has_no_docstring_is_named(tmp_path: Path) -> None:
    assert build_docs.undocumented(make_package(tmp_path)) == ["toy.room", "toy.room.bare"]


def test_pages(tmp_path: Path) -> None:
    output = tmp_path / "api"
    output.mkdir()
    (output / "toy.gone.md").write_text("of a module that is no more")
    (output / "notes.md").write_text("somebody's")

    written = build_docs.build(output, make_package(tmp_path))

    assert [path.name for path in written] == ["index.md", "toy.md", "toy.room.md"]
    assert {path.name for path in output.iterdir()} == {path.name for path in written} | {
        "notes.md"
    }
    assert "- [`toy`](toy.md): A toy." in written[0].read_text()
    page = written[2].read_text()
    assert "## `class Box`\n\nHolds.\n" in page
    assert "**Attributes**\n\n- size: in `px`, see `grow`,\n  never negative.\n" in page
    assert "### `grow(self, by: int=1) -> None`\n\nGrow.\n" in page
    assert "_shrink" not in page and "_own" not in page


def test_pages_of_the_package(tmp_path: Path) -> None:
    written = build_docs.build(tmp_path / "api")
    assert len(written) == len(build_docs.modules()) + 1
    assert "## `class Task(ABC)`" in (tmp_path / "api" / "edgemtl.tasks.base.md").read_text()


def test_exit_codes_page_says_what_the_code_does() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (?:`(\w+)`)? *\| ([^|]+) \|", text, re.MULTILINE)
    assert [(int(code), name) for code, name, _, _ in rows] == [(c.value, c.name) for c in ExitCode]

    classes = [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, EdgemtlError)
    ]
    documented = {(name, int(code)) for code, _, name, _ in rows if name}
    assert documented == {(cls.__name__, int(cls.exit_code)) for cls in classes}

    order = re.search(r"leaves with the first of: ([\d, ]+)\.", text)
    assert order is not None
    assert [int(code) for code in order[1].split(",")] == [int(code) for code in SERIOUSNESS]


def test_verbs_that_the_pages_name_exist() -> None:
    group: Any = typer.main.get_command(app)
    verbs = set(group.commands)
    named = {
        verb
        for page in PAGES
        for verb in re.findall(r"(?<![.\w])edgemtl ([a-z]+)\b", page.read_text("utf-8"))
    }
    assert "compile" in named
    assert named <= verbs


def test_the_first_screen_of_the_readme() -> None:
    """What it is, for whom, two commands, a picture, a table with a result."""
    screen = (ROOT / "README.md").read_text("utf-8").splitlines()[:26]
    assert screen[0] == "# EdgeMTL"
    commands = [line.split("#")[0].strip() for line in screen if line.startswith("make ")]
    assert commands == ["make demo", "make test"]
    assert any("It is for" in line for line in screen[1:8])
    assert any(re.match(r"!\[.+\]\(docs/images/", line) for line in screen)
    assert any(line.startswith("| `mos_m_pruned.pt` |") for line in screen)
