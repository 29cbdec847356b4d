"""Whatever a name holds, no place that it is written to acts on it."""

from __future__ import annotations

import io
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgemtl import sinks
from edgemtl.errors import InputRefused
from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.gates.junit import github_annotations, write_junit

#: pieces that one place or another acts on
PIECES = (
    "\x1b[2J",
    "\x9b31m",
    "\x00",
    "\x08",
    "\n::error::x",
    "\r\n##[error]x",
    "##vso[task.complete]",
    "\u202egnp.",
    "\ufffe",
    "\ud800",
    "<script>",
    "]]>",
    "|",
    "`",
    "@all",
    "#1",
    "%0A",
    "é",
    "網",
    "a",
    "x" * 300,
)


def names(count: int, seed: int = 0) -> list[str]:
    """So many texts made of the pieces."""
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 6))) for _ in range(count)]


@pytest.mark.parametrize("write", [sinks.terminal, sinks.table_line])
def test_a_line_stays_a_harmless_line(write: object) -> None:
    assert callable(write)
    for name in (*names(200), "\n".join(["::error::x"] * 3), "   ::error::x"):
        line = write(name)
        assert line.isprintable() or line == ""
        assert not line.lstrip().startswith("::")
        assert "##[" not in line and "##vso[" not in line
    assert write("a b") == "a b"
    assert write("3\u202f000") == "3 000"  # a narrow space is a space


def test_lines_have_a_longest_length() -> None:
    assert len(sinks.terminal("x" * 10_000_000)) == sinks.MOST_IN_LINE
    assert len(sinks.table_line("x" * 10_000)) == sinks.MOST_CHARACTERS


def test_columns_stay() -> None:
    assert sinks.table_line("a    b") == "a    b"


def test_junit_and_annotations_hold_any_name(tmp_path: Path) -> None:
    for number, name in enumerate(names(60, seed=1)):
        outcome = GateOutcome(f"tasks.{name}.min", "fail", 0.1, 0.2, name[:9], name)
        report = GateReport((outcome,))
        path = tmp_path / f"{number}.xml"
        write_junit(report, path, suite=name)
        case = ET.parse(path).getroot().find(".//testcase")
        assert case is not None and (case.get("name") or "").startswith("tasks.")
        (line,) = github_annotations(report)
        assert line.startswith("::error title=") and line.count("\n") == 0
        assert all(letter.isprintable() for letter in line), repr(line)
        assert line.split("::")[1].count(",") == 0


def test_markdown_is_one_line_without_active_signs() -> None:
    for name in names(100, seed=2):
        line = sinks.markdown(name)
        assert "\n" not in line and "\x1b" not in line
        io.StringIO().write(line.encode().decode())  # no half of a character pair
        for sign in "|<`":
            assert line.count(sign) == line.count("\\" + sign)


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "a\u202eb", "x" * 129, "\ud800", "a\x00"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputRefused, match="the name of a task is no name") as found:
        sinks.check_name(name, "the name of a task")
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("name", ["pose", "tête à gauche", "網", "a/b:c", "x" * 128])
def test_names_that_are_some(name: str) -> None:
    assert sinks.check_name(name, "x") == name
