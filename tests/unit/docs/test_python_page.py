"""docs/python.md names all that ``import edgemtl`` gives, with the arguments that there are."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import edgemtl
from edgemtl import api
from edgemtl.errors import EdgemtlError

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIGNATURES = {
    found[1]: found[2]
    for block in BLOCKS
    if (found := re.fullmatch(r"edgemtl\.(\w+)\((.*)\)\n", block, re.DOTALL)) and "*," in found[2]
}
#: functions whose signature stands in a table
SIGNATURES |= dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE))
FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(edgemtl, name))]
RESULTS = [
    name
    for name in api.__all__
    if is_dataclass(found := getattr(edgemtl, name)) and found.__module__.startswith("edgemtl.api.")
]
WORDS = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGE))))


def test_every_public_name_is_on_the_page() -> None:
    headings = set(re.findall(r"\w+", " ".join(re.findall(r"^## (.+)$", PAGE, re.MULTILINE))))
    assert set(api.__all__) - WORDS - headings == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_arguments_are_those_of_the_function(name: str) -> None:
    if name == "load_run":
        assert "`load_run(folder)`" in PAGE
        return
    told = [word.partition("=")[0].strip() for word in SIGNATURES[name].split(",")]
    expected: list[str] = []
    for parameter in inspect.signature(getattr(edgemtl, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in expected:
            expected.append("*")
        expected.append(parameter.name)
    assert told == expected


@pytest.mark.parametrize("name", RESULTS)
def test_what_results_hold_is_on_the_page(name: str) -> None:
    kind = getattr(edgemtl, name)
    held = {one.name for one in fields(kind)}
    held |= {key for key, value in vars(kind).items() if isinstance(value, property)}
    held |= {key for key, value in vars(kind).items() if inspect.isfunction(value)} - {"cells"}
    assert {word for word in held if not word.startswith("_")} - WORDS == set()


def test_every_error_stands_with_its_exit_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    for name in api.__all__:
        kind = getattr(edgemtl, name)
        if inspect.isclass(kind) and issubclass(kind, EdgemtlError) and kind is not EdgemtlError:
            assert str(int(kind("so").exit_code)) in rows[name], name


def test_examples_on_the_page_are_python() -> None:
    examples = [block for block in BLOCKS if "*," not in block]
    assert len(examples) >= 3
    for block in examples:
        for node in ast.walk(ast.parse(block)):
            match node:
                case ast.Attribute(value=ast.Name(id="edgemtl"), attr=name):
                    assert name in api.__all__
                case ast.Call(func=ast.Attribute(value=ast.Name(id="edgemtl"), attr=name)):
                    given = {keyword.arg for keyword in node.keywords}
                    known = getattr(edgemtl, name)
                    assert given <= set(inspect.signature(known).parameters)
