"""Every command that a page of docs/ shows is one that there is, with flags that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from edgemtl.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: Any = typer.main.get_command(app)


def shown(page: Path) -> list[list[str]]:
    """Words of every call of ours in the page's blocks."""
    found = []
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            call = line.strip().removeprefix(".venv/bin/")
            if call.startswith("edgemtl "):
                found.append(shlex.split(call, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    for verb, *words in shown(page):
        command = COMMANDS.commands[verb]
        if hasattr(command, "commands"):  # "edgemtl farm worker" and the like
            command, words = command.commands[words[0]], words[1:]
        # raises for a flag that there is not
        command.make_context(verb, words)


def test_there_are_commands() -> None:
    by_page = {page.stem: len(shown(page)) for page in PAGES}
    assert sum(by_page.values()) >= 50
    assert min(by_page[name] for name in ("farm", "cpu", "jetson", "measuring")) >= 3


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name
