"""Writes the tables of docs/verbs.md and docs/recipe.md from the command line and the recipe.

What stands between the markers is made here; the words around them are written by hand.

    python tools/reference_pages.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgemtl.cli.main import app
from edgemtl.recipes import Recipe

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- made by tools/reference_pages.py -->", "<!-- end -->"


def verbs() -> str:
    """A section per verb with its arguments and flags."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return "\n".join(
        _verb(words, verb)
        for name, command in commands.items()
        for words, verb in _below(name, command)
    )


def _below(name: str, command: Any) -> list[tuple[str, Any]]:
    """A command, or those of a group, with the words that call them."""
    inside = getattr(command, "commands", None)
    return [(name, command)] if inside is None else [(f"{name} {k}", c) for k, c in inside.items()]


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    flags = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    words = ["edgemtl", name, *(_argument(p) for p in arguments)]
    words += [f"{p.opts[0]} {_value(p)}".strip() for p in flags if p.required]
    lines = [f"## {name}", "", f"`{' '.join(words)}`", "", str(command.help), ""]
    if flags:
        lines += ["| flag | meaning |", "|---|---|", *(_flag(p) for p in flags), ""]
    return "\n".join(lines)


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _value(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    return str(parameter.metavar or parameter.name.split("_")[-1].upper())


def _flag(parameter: Any) -> str:
    options = [*parameter.opts, *parameter.secondary_opts]
    names = ", ".join(f"`{f'{option} {_value(parameter)}'.strip()}`" for option in options)
    said = str(parameter.help or "").strip()
    default = parameter.default
    if default not in (None, False, True, "", []) and not callable(default):
        said = f"{said} Default: {default}.".strip()
    return f"| {names} | {_cell(said)} |"


def recipe() -> str:
    """A table per section of the recipe."""
    return "\n".join(_section("", Recipe))


def _section(path: str, model: type[BaseModel]) -> list[str]:
    lines, nested = [], []
    for name, key in model.model_fields.items():
        kind = key.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            nested += _section(f"{path}.{name}".lstrip("."), kind)
        elif path == "gates" and name == "tasks":
            from edgemtl.gates.limits import TaskLimits

            nested += _section("gates.tasks.NAME", TaskLimits)
        else:
            lines.append(f"| `{name}` | {_default(key)} | {_cell(key.description or '')} |")
    if not path:
        return nested
    table = ["| key | default | meaning |", "|---|---|---|", *lines, ""] if lines else []
    return [f"## [{path}]", "", *table, *nested]


def _default(key: FieldInfo) -> str:
    value = key.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(path: Path, made: str) -> str:
    """The page with the part between its markers made anew.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no '{BEGIN}' ... '{END}'")
    return f"{before}{BEGIN}\n\n{made.rstrip()}\n\n{END}{after}"


def pages() -> dict[Path, str]:
    """Page -> what it should hold."""
    made = {ROOT / "docs" / "verbs.md": verbs(), ROOT / "docs" / "recipe.md": recipe()}
    return {path: page(path, text) for path, text in made.items()}


def main() -> int:
    """Write the pages, or with ``--check`` say which are not up to date (exit code 1)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if path.read_text("utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is not up to date: python tools/reference_pages.py")
        else:
            path.write_text(pages()[path], "utf-8")
            print(path.relative_to(ROOT))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
