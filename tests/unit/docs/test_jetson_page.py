"""docs/jetson.md: the commands that it shows are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from edgemtl import recipes, targets
from edgemtl.backends.tensorrt.settings import options_of
from edgemtl.cli.main import app
from edgemtl.devices.runner import cli as runner

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "jetson.md").read_text("utf-8")
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
OURS = [line for line in LINES if line.startswith("edgemtl ")]
SET = re.findall(r"--set ([\w.]+='?[^\s`']+'?)", PAGE)


@pytest.mark.parametrize("line", OURS)
def test_commands_are_understood(line: str) -> None:
    verb, *arguments = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    # raises for a verb or a flag that there is not
    command.commands[verb].make_context(verb, arguments)


def test_there_are_commands() -> None:
    assert len(OURS) >= 5 and len(SET) >= 4


@pytest.mark.parametrize("assignment", SET)
def test_recipe_keys_are_known(assignment: str) -> None:
    recipes.resolve({}, None, [assignment.replace("'", "")], {})


def test_the_runner_s_command_is_understood() -> None:
    line = next(line for line in LINES if "python3 mos_t-jetson.edgemtl" in line)
    words = shlex.split(line)
    arguments = runner._arguments(words[words.index("mos_t-jetson.edgemtl") + 1 :], "bundle")
    assert (arguments.verb, arguments.output) == ("bench", "results.json")


def test_the_table_of_boards_is_that_of_the_targets() -> None:
    rows = re.findall(r"^\| `(jetson[\w-]*)` \| (.+?) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
    boards = {n for n in targets.names() if targets.load(n).backend == "tensorrt"}
    assert {name for name, *_ in rows} == boards
    for name, board, jetpack, tensorrt in rows:
        target = targets.load(name)
        options = options_of(target)
        assert (options.jetpack, options.tensorrt) == (jetpack, tensorrt)
        assert target.device.removeprefix("Jetson ") == board
