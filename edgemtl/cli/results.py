"""Verbs that read stored results and measure nothing: ``gate`` and ``report``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    FactoryFlag,
    JsonFlag,
    print_json,
    say,
    say_lines,
)

#: the file whose contents GitHub shows on a job's page
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("gate")(gate_verb)
    app.command("report")(report_verb)


def gate_verb(
    run: Annotated[Path, typer.Argument(help="Run folder or bundle.", metavar="RUN|BUNDLE")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Recipe with the gates to judge by."),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Recipe key, e.g. gates.latency.p99_ms=12."
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="results.json that the runner wrote on the device.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Compare with this: a baseline file, a run folder, a bundle, or "
            "git:REVISION:PATH of a committed baseline file."
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option(help="Write the run's figures here, for the --baseline of later runs."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DENSE",
            help="Compare the tasks with this dense checkpoint, measured on the run's pictures.",
        ),
    ] = None,
    factory: FactoryFlag = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the comparison here as Markdown, for a comment.")
    ] = None,
    bencher: Annotated[
        Path | None, typer.Option(help="Write the figures here as Bencher Metric Format.")
    ] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Print GitHub annotations for failed gates.")
    ] = False,
    step_summary: Annotated[
        bool,
        typer.Option(
            "--step-summary", help="Add the Markdown to the job's page (GITHUB_STEP_SUMMARY)."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge stored results against gates and a baseline; nothing is run or measured."""
    from edgemtl.errors import UsageError, most_serious
    from edgemtl.files import write_json, write_text
    from edgemtl.gates.junit import bencher_metrics, github_annotations, write_junit
    from edgemtl.pipeline.judging import compare_stored, judge_stored

    if baseline is None and (markdown is not None or step_summary):
        raise UsageError(
            "there is nothing to compare", where="--markdown, --step-summary", hint="add --baseline"
        )
    report = judge_stored(run, config, assign or [], results, reference, factory)
    found = compare_stored(run, baseline, config, assign or [], results)
    regression = found.regression
    if save_baseline is not None:
        write_json(save_baseline, found.snapshot.to_dict())
    if bencher is not None:
        write_json(bencher, bencher_metrics(found.snapshot))
    if junit is not None:
        write_junit(report, junit, regression=regression)
    if as_json:
        told = report.to_dict()
        if regression is not None:
            told |= {"regression": regression.to_dict()}
        print_json(told)
    else:
        from edgemtl.report.tables import print_gates

        print_gates(report)
    if regression is not None:
        from edgemtl.report.comparison import comparison_markdown, comparison_text

        if not as_json:
            say_lines("\n" + comparison_text(regression))
        if markdown is not None:
            write_text(markdown, comparison_markdown(regression))
        if step_summary:
            _add_to_step_summary(comparison_markdown(regression))
    if annotations:
        lines = github_annotations(report, regression)
        # Orders to the CI service, on purpose; what is in them was made harmless.
        print("\n".join(lines), file=sys.stderr if as_json else sys.stdout)
    codes = [report.exit_code()] + ([regression.exit_code()] if regression else [])
    code = int(most_serious(codes))
    if code:
        raise typer.Exit(code)


def _add_to_step_summary(text: str) -> None:
    from edgemtl.errors import UsageError

    place = os.environ.get(STEP_SUMMARY)
    if not place:
        raise UsageError(
            f"{STEP_SUMMARY} is not set: this is not a GitHub job",
            where="--step-summary",
            hint="--markdown FILE writes the same to a file",
        )
    # The file belongs to the runner and other steps add to it: appended, not replaced.
    with Path(place).open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def report_verb(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DENSE",
            help="Compare the run with this dense checkpoint from now on: accuracy.json, "
            "gates.json and exit code are written again too.",
        ),
    ] = None,
    factory: FactoryFlag = None,
) -> None:
    """Write report.html and report.md of a run folder again."""
    from edgemtl.errors import InputRefused
    from edgemtl.pipeline.run_folder import read_run
    from edgemtl.report.page import write_report

    if not read_run(run):
        raise InputRefused(
            "this is not a run folder", where=str(run), hint="'edgemtl compile' makes one"
        )
    if reference is not None:
        from edgemtl.pipeline.judging import hold_run_against

        hold_run_against(run, reference, factory)
    say(write_report(run))
