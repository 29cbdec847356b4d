"""The summary on a console and in Markdown."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.run_folder import ALL_VARIANTS, edit, write_run

from edgemtl.record.load import load_run
from edgemtl.report.console import plain_text, print_run
from edgemtl.report.markdown import render_markdown


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_every_run_is_printed(variant: Any, name: str) -> None:
    folder = variant(name)
    assert plain_text(folder).isascii()
    terminal = io.StringIO()
    print_run(folder, Console(file=terminal, force_terminal=True, width=100))
    assert terminal.getvalue()
    assert render_markdown(load_run(folder)).startswith("### ")


def test_plain_text_is_a_table_per_task_and_cost(variant: Any) -> None:
    folder = variant("gates-fail")
    lines = plain_text(folder).splitlines()
    assert lines[0].split() == ["task", "figure", "before", "after", "change", "gate"]
    detection = next(line for line in lines if line.startswith("detection"))
    assert detection.split("  ")[0] == "detection"
    for word in ("0.783", "0.777", "0.8 % worse", "fail (at most 0.5 % worse, at least 0.8)"):
        assert word in detection
    assert any(re.match(r"latency p99 +58\.8 ms +27\.2 ms +53\.8 % less +fail", x) for x in lines)
    assert any(x.startswith("Not good enough: 5 of 8 gates failed.") for x in lines)
    assert sum(x.startswith("next: ") for x in lines) == 3
    assert f"bundle   {folder / 'bundle' / 'mos_m-cpu.edgemtl'}" in lines


def test_columns_stand_under_each_other(variant: Any) -> None:
    lines = plain_text(variant("complete")).splitlines()
    rule = lines[1]
    ends = [match.end() for match in re.finditer(r"-+", rule)]
    for line in lines[2:5]:
        for column in (2, 3, 4):  # figures end where their column ends
            assert line[ends[column] - 1] != " " and line[ends[column]] == " "


def test_not_a_terminal_gets_plain_lines(variant: Any) -> None:
    folder = variant("complete")
    stream = io.StringIO()
    print_run(folder, Console(file=stream))
    assert stream.getvalue() == plain_text(folder)


def test_a_terminal_gets_colours_and_words(variant: Any) -> None:
    stream = io.StringIO()
    print_run(variant("gates-fail"), Console(file=stream, force_terminal=True, width=140))
    assert "\x1b[" in stream.getvalue()
    words = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert "✗ fail (at most 0.5" in words and "✓ pass (at most" in words


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")

    def rename(data: Any) -> Any:
        text = "\x1b[2J[red]pose[/red]\r\x07"
        if isinstance(data, dict):
            return {key.replace("pose", text): rename(value) for key, value in data.items()}
        return [rename(v) for v in data] if isinstance(data, list) else data

    edit(folder, "accuracy.json", rename)
    assert "\x1b" not in plain_text(folder) and "\r" not in plain_text(folder)
    stream = io.StringIO()
    print_run(folder, Console(file=stream, force_terminal=True, width=140))
    assert "\x1b[2J" not in stream.getvalue() and "\x07" not in stream.getvalue()
    assert "[red]" in stream.getvalue(), "markup is shown, not obeyed"


def test_an_ascii_pipe_takes_any_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    edit(folder, "accuracy.json", lambda data: data["metrics"]["pose"]["primary"].update(label="Π"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_run(folder, Console(file=stream))
    stream.seek(0)
    assert "\\u03a0" in stream.read()


def test_markdown_has_the_figures(variant: Any) -> None:
    text = render_markdown(load_run(variant("gates-fail")))
    assert "**✗ Not good enough: 5 of 8 gates failed.**" in text
    assert "| pose | mean pose error | 6.21 deg | 6.10 deg | 1.82 % better | ✓ pass" in text
    assert "1. tasks.detection.max\\_relative\\_drop" in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert len(text) < 4000


def test_markdown_shows_active_text_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    name = "<img src=x> [a](b) | `c` @everyone fixes #12\n# title"
    edit(folder, "run.json", lambda run: run.update(name=name))
    title = render_markdown(load_run(folder)).splitlines()[0]
    assert title == (
        "### \\<img src=x\\> \\[a\\](b) \\| \\`c\\` @\u200beveryone fixes #\u200b12 # title for cpu"
    )
