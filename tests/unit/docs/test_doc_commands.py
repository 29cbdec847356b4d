"""Every command that a page shows is understood, and is run by a named test or marked as not run.

The convention: in front of a block with commands stand one or both of these comments.

    <!-- tested by tests/e2e/test_compile.py tests/... -->
    <!-- not tested: needs a Jetson -->

The first names files under tests/ that, together, call each verb of the block with each of its
flags. With the second beside it, or alone, the rest of the block is excused for the reason given.
Calls of ``make`` need neither: their targets are looked up in the Makefile.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from edgemtl.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
COMMANDS: Any = typer.main.get_command(app)
BLOCK = re.compile(
    r"(?P<marks>(?:^ *<!-- (?:not )?tested.*?-->\n)*)^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
#: languages of blocks that are no commands
NO_SHELL = ("python", "toml", "yaml", "json")
#: what begins a line of a block of commands
PROGRAMS = ("edgemtl", "python", "python3", "make", "pip", "ssh", "scp", "openssl", "./runner")
PROGRAMS += ("qemu-aarch64-static", "apt-get")
#: they install what the test environment has already
INSTALLERS = ("pip", "apt-get")
PAIRS = (("-o", "--output"), ("-t", "--target"), ("-c", "--config"))
NAMES = {name: pair for pair in PAIRS for name in pair}


@dataclass(frozen=True)
class Block:
    """A block of commands on a page: its calls as words, the marks in front of it."""

    page: Path
    calls: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]
    excuse: str

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.calls[0])[:60]}"


def blocks(page: Path) -> list[Block]:
    """All blocks of commands of a page."""
    found = []
    for block in BLOCK.finditer(page.read_text("utf-8")):
        if block["language"] in NO_SHELL:
            continue
        lines = block["text"].replace("\\\n", " ").splitlines()
        words = [shlex.split(line.split("  #")[0], comments=True) for line in lines if shown(line)]
        calls = [(one[0].removeprefix(".venv/bin/"), *one[1:]) for one in words]
        if calls:
            tests = re.findall(r"<!-- tested by (.+?) -->", block["marks"])
            excuses = re.findall(r"<!-- not tested: (.+?) -->", block["marks"])
            found.append(
                Block(page, tuple(calls), tuple(" ".join(tests).split()), " ".join(excuses))
            )
    return found


def shown(line: str) -> bool:
    """Whether a line of a block is a command."""
    first = line.split(maxsplit=1)[:1]
    return bool(first) and first[0].removeprefix(".venv/bin/") in PROGRAMS


ALL = [block for page in PAGES for block in blocks(page)]
OURS = [(block, call) for block in ALL for call in block.calls if call[0] == "edgemtl"]


@pytest.mark.parametrize(
    ("block", "call"), OURS, ids=[f"{block.page.name}: {' '.join(call)}" for block, call in OURS]
)
def test_commands_are_understood(block: Block, call: tuple[str, ...]) -> None:
    verb, words = call[1], list(call[2:])
    command = COMMANDS.commands[verb]
    if hasattr(command, "commands"):  # "edgemtl farm worker" and the like
        command, words = command.commands[words[0]], words[1:]
    # raises for a flag that there is not
    command.make_context(verb, words)


@cache
def source(name: str) -> str:
    """Text of a test file."""
    return (ROOT / name).read_text("utf-8")


def runs(block: Block, call: tuple[str, ...]) -> bool:
    """Whether the block's tests, together, call it with these flags, or run the whole page."""
    texts = {name: source(name) for name in block.tests}
    if any(f'"{block.page.name}"' in text for name, text in texts.items() if "/e2e/" in name):
        return True
    text = "\n".join(texts.values())
    if call[0] == "python":
        script = call[2].rpartition(".")[2] if call[1] == "-m" else Path(call[1]).stem
        return script in text
    if call[0] != "edgemtl":
        return f'"{Path(call[0]).name}"' in text
    verb = call[2] if call[1] == "farm" else call[1]
    flags = {word.split("=")[0] for word in call[2:] if re.match(r"--?[a-z]", word)}
    return f'"{verb}"' in text and all(
        any(name in text for name in NAMES.get(flag, (flag,))) for flag in flags
    )


@pytest.mark.parametrize("block", ALL, ids=str)
def test_commands_are_run_by_a_test_or_marked(block: Block) -> None:
    calls = [call for call in block.calls if call[0] not in (*INSTALLERS, "make")]
    if not calls:
        return
    assert block.tests or block.excuse, "neither 'tested by' nor 'not tested' in front of it"
    gone = [name for name in block.tests if not (ROOT / name).is_file()]
    assert gone == [] and all(name.startswith("tests/") for name in block.tests)
    open_ends = [" ".join(call) for call in calls if not runs(block, call)]
    assert open_ends == [] or block.excuse


@pytest.mark.parametrize("block", ALL, ids=str)
def test_targets_of_make_exist(block: Block) -> None:
    known = set(re.findall(r"^([\w-]+):", source("Makefile"), re.MULTILINE))
    asked = {call[1] for call in block.calls if call[0] == "make" and len(call) > 1}
    assert asked <= known


def test_there_are_commands() -> None:
    shown_on = {page.stem: sum(block.page == page for block in ALL) for page in PAGES}
    assert len(OURS) >= 50
    assert min(shown_on[name] for name in ("farm", "cpu", "jetson", "measuring")) >= 1


def test_an_unmarked_block_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nedgemtl bench B --multiscale\n```\n", "utf-8")
    (block,) = blocks(page)
    with pytest.raises(AssertionError, match="neither"):
        test_commands_are_run_by_a_test_or_marked(block)
    page.write_text(f"<!-- tested by {Path(__file__).relative_to(ROOT)} -->\n" + page.read_text())
    (block,) = blocks(page)
    with pytest.raises(Exception, match="No such option"):
        test_commands_are_understood(block, block.calls[0])


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name
