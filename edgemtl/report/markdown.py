"""A short summary in Markdown, for a CI job's page or a comment under a change."""

from __future__ import annotations

from edgemtl.record.rundata import RunData
from edgemtl.report.summary import summarise_run
from edgemtl.report.texttables import TextTable, main_tables, simple
from edgemtl.report.verdict import SYMBOLS
from edgemtl.sinks import markdown


def render_markdown(run: RunData) -> str:
    """Verdict, tasks, cost and latency, next steps; the same run gives the same text."""
    summary = summarise_run(run)
    verdict = summary.verdict
    lines = [
        f"### {safe(summary.title)}",
        "",
        f"**{SYMBOLS[verdict.state][0]} {safe(verdict.headline)}.** {safe(verdict.reason)}",
        "",
    ]
    for table in main_tables(summary):
        lines += [*markdown_table(table), ""]
    notes = [*([summary.speedup] if summary.speedup else []), *summary.labels]
    lines += [f"- {safe(note)}" for note in notes]
    lines += [""] if notes else []
    if summary.next_steps:
        lines += ["**What to do next**", ""]
        lines += [f"{i}. {safe(step)}" for i, step in enumerate(summary.next_steps, 1)]
        lines += [""]
    if run.problems:
        lines += [f"Not shown: {safe('; '.join(run.problems))}", ""]
    return "\n".join(lines)


def markdown_table(table: TextTable) -> list[str]:
    """Lines of a table; the last column carries the sign of the row's state."""
    rule = ["---:" if i in table.numeric else "---" for i in range(len(table.headers))]
    rows = [[*row.cells[:-1], f"{SYMBOLS[row.state][0]} {row.cells[-1]}"] for row in table.rows]
    lines = [" | ".join(table.headers), " | ".join(rule)]
    lines += [" | ".join(safe(cell) for cell in row) for row in rows]
    return [f"| {line} |" for line in lines]


def safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    return markdown(simple(text))
