"""Verbs that set runs against each other: ``diff`` and ``history``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    JsonFlag,
    print_json,
    say,
    say_lines,
)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("diff")(diff_verb)
    app.command("history")(history_verb)


def diff_verb(
    a: Annotated[
        str, typer.Argument(help="Before: run folder, bundle or baseline file.", metavar="A")
    ],
    b: Annotated[str, typer.Argument(help="After: the same.", metavar="B")],
    html: Annotated[
        Path | None, typer.Option(help="Also write the comparison here as a page.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print what changed between two runs; nothing is judged ('gate --baseline' judges)."""
    from edgemtl.gates.regression import compare
    from edgemtl.pipeline.baselines import read_snapshot

    before, after = read_snapshot(a), read_snapshot(b)
    report = compare(before, after)
    if html is not None:
        from edgemtl.report.compare_page import write_comparison

        write_comparison(html, report, before, after)
    if as_json:
        print_json(report.to_dict())
        return
    from edgemtl.report.comparison import comparison_text

    say_lines(comparison_text(report))
    if html is not None:
        say(f"page    {html}")


def history_verb(
    file: Annotated[Path, typer.Argument(help="JSON-lines file of the trend.", metavar="FILE")],
    add: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Append this run folder, bundle or baseline file first."),
    ] = None,
    label: Annotated[str, typer.Option(help="What to call it: a commit or a version.")] = "",
    html: Annotated[Path | None, typer.Option(help="Also write the trend here as a page.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep the figures of runs, one JSON line each, and show their trend."""
    from datetime import UTC, datetime

    from edgemtl.gates import history
    from edgemtl.pipeline.baselines import read_snapshot

    if add is not None:
        snapshot = read_snapshot(add)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        when = snapshot.source.get("started_utc") or now
        history.append(file, history.entry_of(snapshot, label, when))
    entries = history.read(file)
    if html is not None:
        from edgemtl.report.trend_page import write_trend

        write_trend(html, entries)
    if as_json:
        from dataclasses import asdict

        print_json([asdict(entry) for entry in entries])
        return
    from edgemtl.report.trend import trend_text

    say_lines(trend_text(entries))
    if html is not None:
        say(f"page    {html}")
