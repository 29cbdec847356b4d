"""The main rows as tables of text: what the console and the Markdown have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemtl.report.figures import GAP, TIMES
from edgemtl.report.summary import FigureRow, Summary
from edgemtl.report.verdict import SYMBOLS, State
from edgemtl.sinks import shown

#: the figures of the cost and latency tables; the page has the others
MAIN_FIGURES = ("macs", "parameters", "size_bytes", "p50_ms", "p90_ms", "p99_ms")
_ASCII = str.maketrans(
    {GAP: " ", TIMES: "x", "\u2212": "-", "\u2013": "-", "\u2192": "->", "\u00b0": "deg "}
)


@dataclass(frozen=True)
class TextRow:
    """Cells, the last being the gate's, and how that gate stands."""

    cells: tuple[str, ...]
    state: State


@dataclass(frozen=True)
class TextTable:
    """Headers and rows; the columns named in ``numeric`` hold figures."""

    headers: tuple[str, ...]
    rows: tuple[TextRow, ...]
    numeric: tuple[int, ...]


def main_tables(summary: Summary) -> list[TextTable]:
    """Tasks, then cost and latency; those that have no row are left out."""
    tasks = tuple(
        TextRow((row.task, row.primary.label, *_figures(row.primary)), row.primary.state)
        for row in summary.tasks
    )
    costs = tuple(
        TextRow((_label(row), *_figures(row)), row.state)
        for row in (*summary.cost, *summary.latency)
        if row.key in MAIN_FIGURES
    )
    shared = ("before", "after", "change", "gate")
    tables = (
        TextTable(("task", "figure", *shared), tasks, (2, 3, 4)),
        TextTable(("cost", *shared), costs, (1, 2, 3)),
    )
    return [table for table in tables if table.rows]


def _label(row: FigureRow) -> str:
    return f"latency {row.label}" if row.key.endswith("_ms") else row.label


def _figures(row: FigureRow) -> tuple[str, ...]:
    words = SYMBOLS[row.state][1]
    limits = ", ".join(gate.limit.text for gate in row.gates)
    gate = f"{words} ({limits})" if limits else words
    return (row.before.text, row.after.text, row.change.text, gate)


def simple(text: str) -> str:
    """The same in plain letters: no special spaces, signs, line breaks or control characters."""
    return shown(" ".join(text.split(" "))).replace("\n", " ").replace("\t", " ").translate(_ASCII)


def aligned(table: TextTable) -> list[str]:
    """Lines of a table whose columns stand under each other."""
    rows = [table.headers, *(row.cells for row in table.rows)]
    cells = [[simple(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.headers))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if index in table.numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(cells[0]), "  ".join("-" * width for width in widths), *map(line, cells[1:])]
