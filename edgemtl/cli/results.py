"""Verbs that read stored results and measure nothing: ``gate`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import JsonFlag, print_json


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("gate")(gate_verb)
    app.command("report")(report_verb)


def gate_verb(
    run: Annotated[Path, typer.Argument(help="Run folder or bundle.", metavar="RUN|BUNDLE")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Recipe whose gates to judge by."),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="e.g. gates.latency.p99_ms=12"),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="results.json that the runner wrote on the device.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Print GitHub annotations for failed gates.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge stored results against gates; nothing is run or measured."""
    from edgemtl.gates.junit import github_annotations, write_junit
    from edgemtl.pipeline.judging import judge_stored

    report = judge_stored(run, config, assign or [], results)
    if junit is not None:
        write_junit(report, junit)
    if as_json:
        print_json(report.to_dict())
    else:
        from edgemtl.report.tables import print_gates

        print_gates(report)
    if annotations:
        print("\n".join(github_annotations(report)), file=sys.stderr if as_json else sys.stdout)
    code = int(report.exit_code())
    if code:
        raise typer.Exit(code)


def report_verb(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
) -> None:
    """Write report.html and report.md of a run folder anew."""
    from edgemtl.errors import InputRefused
    from edgemtl.pipeline.run_folder import read_run
    from edgemtl.report.page import write_report

    if not read_run(run):
        raise InputRefused(
            "this is not a run folder", where=str(run), hint="'edgemtl compile' makes one"
        )
    print(write_report(run))
