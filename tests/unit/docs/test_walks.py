"""What CONTRIBUTING.md says of the code: its walks lead through what is there, its order holds."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def stations() -> list[tuple[str, str]]:
    """(file, name in it) of every station."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    part = text.split("Three walks through the code:")[1].split("### How to add")[0]
    found = []
    for words in re.findall(r"`([^`]+)`", part):
        file, colon, name = " ".join(words.split()).partition(": ")
        if colon:
            found.append((file, name))
    return found


def names(tree: ast.Module) -> set[str]:
    """Functions, classes, their methods and fields."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    found.add(f"{node.name}.{part.name}")
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    found.add(f"{node.name}.{part.target.id}")
    return found


def test_there_are_three_walks_of_some_length() -> None:
    assert len(stations()) > 25


@pytest.mark.parametrize(("file", "name"), stations())
def test_a_station_is_there(file: str, name: str) -> None:
    places = [ROOT / "edgemtl" / file, ROOT / "edgemtl" / "pipeline" / file]
    there = [path for path in places if path.is_file()]
    assert len(there) == 1, file
    assert name in names(ast.parse(there[0].read_text("utf-8")))


def test_the_order_of_imports_is_the_one_that_is_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = (
        one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers"
    )
    checked = [[n.strip(" ").removeprefix("edgemtl.") for n in layer.split(":")]
               for layer in contract["layers"]]  # fmt: skip
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    said = text.split("Imports go one way")[1].split("`): `")[1].split("`")[0]
    layers = [[name.strip() for name in layer.split(",")] for layer in said.split("→")]
    assert layers == checked
