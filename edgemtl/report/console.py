"""What is printed at the end of a run: the tables, the verdict, and where the results lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgemtl.record.load import RunData, load_run
from edgemtl.report.summary import Summary, summarise_run
from edgemtl.report.texttables import aligned, main_tables, simple
from edgemtl.report.verdict import SYMBOLS
from edgemtl.sinks import shown

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {
    "pass": "green",
    "fail": "bold red",
    "not-measured": "yellow",
    "unstable": "yellow",
    "allowed": "yellow",
    "none": "dim",
}


def print_run(folder: Path, console: Console | None = None) -> None:
    """Print a run's summary: tables with colours on a terminal, plain ASCII lines elsewhere.

    Args:
        folder: the run folder.
        console: where to; standard output by default.

    Raises:
        InputRefused: the folder holds no run.
    """
    from rich.console import Console

    console = console or Console()
    if console.is_terminal:
        _print_rich(folder, console)
        return
    text = plain_text(folder)
    # A pipe may have any encoding; a name in other letters must not end the run.
    encoding = getattr(console.file, "encoding", None) or sys.getdefaultencoding()
    console.file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    console.file.flush()


def plain_text(folder: Path) -> str:
    """The summary as plain lines for logs and pipes.

    Raises:
        InputRefused: the folder holds no run.
    """
    return text_of(folder, load_run(folder))


def text_of(folder: Path, run: RunData) -> str:
    """The same of a run that is loaded already."""
    summary = summarise_run(run)
    lines: list[str] = []
    for table in main_tables(summary):
        lines += [*aligned(table), ""]
    lines += _told(summary)
    lines += [f"{word:<8} {simple(value)}" for word, value in _places(folder, run)]
    return "\n".join(lines) + "\n"


def _told(summary: Summary) -> list[str]:
    verdict = summary.verdict
    lines = [simple(f"speed: {summary.speedup}")] if summary.speedup else []
    lines += [simple(f"note: {label}") for label in summary.labels]
    lines += [simple(f"{verdict.headline}. {verdict.reason}")]
    lines += [simple(f"next: {step}") for step in summary.next_steps]
    return lines


def _places(folder: Path, run: RunData) -> list[tuple[str, str]]:
    """Where the results are, of those that there are."""
    bundle = folder / run.run.bundle if run.run and run.run.bundle else None
    report = folder / "report.html"
    places = [("bundle", str(bundle))] if bundle and bundle.exists() else []
    return (
        [*places, ("report", str(report))] if report.exists() else [*places, ("run", str(folder))]
    )


def _print_rich(folder: Path, console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def text(words: str, style: str = "") -> Text:
        # Text, not markup, and no control characters: a task may be called "[red]" or "\\x1b[2J".
        return Text(shown(words), style=style)

    run = load_run(folder)
    summary = summarise_run(run)
    for found in main_tables(summary):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for index, header in enumerate(found.headers):
            right = index in found.numeric
            table.add_column(header, justify="right" if right else "left", no_wrap=right)
        for row in found.rows:
            gate = f"{SYMBOLS[row.state][0]} {row.cells[-1]}"
            table.add_row(*map(text, row.cells[:-1]), text(gate, _COLOURS[row.state]))
        console.print(table)
    verdict = summary.verdict
    if summary.speedup:
        console.print(text(summary.speedup))
    for label in summary.labels:
        console.print(text(f"note: {label}", "yellow"))
    words = f"{SYMBOLS[verdict.state][0]} {verdict.headline}"
    console.print(text(words, f"bold {_COLOURS[verdict.state].removeprefix('bold ')}"))
    console.print(text(verdict.reason))
    for step in summary.next_steps:
        console.print(text(f"next: {step}"))
    for word, value in _places(folder, run):
        console.print(text(f"{word:<8} {value}"), soft_wrap=True)
