"""``-v`` and ``-q``, before a verb and behind it."""

from __future__ import annotations

import logging

import pytest
import typer
from typer.testing import CliRunner

from edgemtl.cli import main as command_line
from edgemtl.cli.console import only_warnings
from edgemtl.cli.main import app
from edgemtl.cli.verbosity import add_verbosity
from edgemtl.progress import Progress, report

log = logging.getLogger("edgemtl.somewhere")


def commands(group: object, name: str = "") -> dict[str, object]:
    """Every verb by the words that call it."""
    found: dict[str, object] = {}
    for key, one in group.commands.items():  # type: ignore[attr-defined]
        words = f"{name} {key}".strip()
        found |= commands(one, words) if hasattr(one, "commands") else {words: one}
    return found


VERBS = sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_both_and_says_so(verb: str) -> None:
    told = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "160"})
    assert told.exit_code == 0
    for flag in ("--verbose", "-v", "--quiet", "-q"):
        assert flag in told.output.split(), flag


def test_there_are_verbs() -> None:
    assert {"compile", "prune", "farm status"} <= set(VERBS)


def talkative(as_json: bool = False) -> None:
    """A verb that says something at every level."""
    only_warnings(as_json)
    report(Progress("work", 1, 2, "parts"))
    log.info("a note")
    log.warning("a warning")
    print("the result")


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        (["talk"], ["a note", "a warning"]),
        (["-q", "talk"], ["a warning"]),
        (["talk", "-q"], ["a warning"]),
        (["-v", "talk"], ["work: 1 of 2 parts", "a note", "a warning"]),
        (["talk", "--verbose"], ["work: 1 of 2 parts", "a note", "a warning"]),
        (["-q", "talk", "-v"], ["work: 1 of 2 parts", "a note", "a warning"]),
        (["talk", "--as-json"], ["a warning"]),
        (["talk", "--as-json", "-v"], ["work: 1 of 2 parts", "a note", "a warning"]),
    ],
)
def test_how_much_is_said(words: list[str], heard: list[str]) -> None:
    verbs = typer.Typer()
    verbs.command("talk")(talkative)
    verbs.command("other")(lambda: None)
    verbs.callback()(command_line._root)
    add_verbosity(verbs)
    told = CliRunner().invoke(verbs, words)
    assert told.exit_code == 0, told.output
    assert told.stdout == "the result\n"
    assert told.stderr.splitlines() == heard
    # the next call begins anew
    assert CliRunner().invoke(verbs, ["talk"]).stderr.splitlines() == ["a note", "a warning"]
