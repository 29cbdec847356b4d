"""The pages about verbs and recipes say what the command line and the recipe say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgemtl.cli.main import app
from edgemtl.errors import ExitCode
from edgemtl.recipes import Recipe

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import reference_pages  # noqa: E402 - lies in tools/

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
#: "farm worker" and the like are verbs of two words
VERBS: dict[str, Any] = {
    " ".join((name, *below)): verb
    for name, command in COMMANDS.items()
    for below, verb in (
        [((), command)]
        if not hasattr(command, "commands")
        else [((word,), inner) for word, inner in command.commands.items()]
    )
}


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def test_the_pages_are_up_to_date() -> None:
    stale = [p.name for p, made in reference_pages.pages().items() if p.read_text("utf-8") != made]
    assert stale == [], "python tools/reference_pages.py writes them anew"


def test_every_verb_and_flag_is_there() -> None:
    sections = {part.split("\n", 1)[0]: part for part in text("verbs.md").split("\n## ")[1:]}
    assert list(sections) == list(VERBS)
    assert {"compile", "inspect", "eval", "bench", "gate", "run", "farm worker"} <= set(VERBS)
    for name, verb in VERBS.items():
        for parameter in verb.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                for option in parameter.opts:
                    assert f"`{option}" in sections[name], (name, option)


def test_every_flag_says_what_it_does() -> None:
    silent = [
        (name, parameter.name)
        for name, verb in VERBS.items()
        for parameter in verb.params
        if not parameter.help
    ]
    assert silent == []


def test_every_exit_code_is_there() -> None:
    for code in ExitCode:
        assert f"{int(code)} " in text("verbs.md").split("<!--")[0]
        assert f"| {int(code)} | `{code.name}` |" in text("exit-codes.md")
    assert "130 after Ctrl-C" in text("verbs.md")


def keys_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(section, key) of every key in a JSON Schema."""
    for key, value in schema.get("properties", {}).items():
        reference = value.get("$ref") or value.get("additionalProperties", {}) or {}
        if isinstance(reference, dict):
            reference = reference.get("$ref", "")
        yield schema["title"], key
        if reference:
            yield from keys_of(definitions[str(reference).rsplit("/", 1)[-1]], definitions)


def test_every_key_of_the_recipe_is_there() -> None:
    schema = Recipe.model_json_schema()
    keys = set(keys_of(schema, schema["$defs"]))
    assert {("BenchSection", "threads"), ("TaskLimits", "min")} <= keys
    page = text("recipe.md")
    for section, key in keys:
        heading = f"## [{key}]" if section == "Recipe" else None
        # A key with keys of its own has a heading: [gates.latency], [gates.tasks.NAME.classes].
        named = f"| `{key}` |" in page or f"[gates.{key}" in page or f".{key}]\n" in page
        assert (heading in page) if heading else named, (section, key)


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in text("recipe.md").splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_words_around_the_tables_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = reference_pages.BEGIN, reference_pages.END
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", "utf-8")
    made = reference_pages.page(page, "new\n")
    assert made == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    page.write_text("no markers", "utf-8")
    with pytest.raises(ValueError, match=r"page\.md"):
        reference_pages.page(page, "new")


def test_checking_writes_nothing_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "verbs.md"
    page.parent.mkdir()
    page.write_text("old", "utf-8")
    monkeypatch.setattr(reference_pages, "ROOT", tmp_path)
    monkeypatch.setattr(reference_pages, "pages", lambda: {page: "new"})
    monkeypatch.setattr(sys, "argv", ["reference_pages.py", "--check"])
    assert reference_pages.main() == 1
    assert page.read_text("utf-8") == "old" and "docs/verbs.md" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["reference_pages.py"])
    assert reference_pages.main() == 0
    assert page.read_text("utf-8") == "new"
    monkeypatch.setattr(sys, "argv", ["reference_pages.py", "--check"])
    assert reference_pages.main() == 0
