"""Tables show names as they are; none of them orders rich or the terminal about."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from edgemtl.report.terminal import plain_console


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "[/x]", ":smile:", "a\x1b[2Jb", "\x9b31m", "a\x07", "網", "\ud800"]
)
def test_a_name_is_text(name: str) -> None:
    told = io.StringIO()
    console = plain_console(told)
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    console.print(f"so: {name}", highlight=False)
    line = told.getvalue().splitlines()[-1]
    assert line == f"so: {''.join(c if c.isprintable() else '?' for c in name)}"
    assert all(c.isprintable() or c == "\n" for c in told.getvalue())
