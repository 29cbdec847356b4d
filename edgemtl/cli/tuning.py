"""``tune``: measure which tiles are fastest for a network's operators."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    FactoryFlag,
    FarmFlag,
    JsonFlag,
    PlainFlag,
    only_warnings,
    print_json,
    say,
)
from edgemtl.progress import Progress, listening

_log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add this module's verb."""
    app.command("tune")(tune_verb)


def tune_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file.", metavar="MODEL|ONNX")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File of measurements, one JSON line each; an existing one is continued.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--target", "-t", help="TVM target that this machine, or the farm, is."),
    ] = "tvm-x86",
    tiles: Annotated[int, typer.Option(min=1, max=50, help="Tiles to try per operator.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timing per operator.")] = 1.0,
    factory: FactoryFlag = None,
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure which tiles are fastest for a network's operators; stop and go on at any time.

    When all are measured, a target file is written beside the measurements, for 'compile --target'.
    On a farm the operators are shared out over workers of one kind of processor (docs/farm.md).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from edgemtl.pipeline.farm.members import open_farm
    from edgemtl.pipeline.farm.tuning import tune_on_farm
    from edgemtl.pipeline.tuning import tune
    from edgemtl.report.terminal import plain_console

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    console = plain_console(sys.stderr)
    only_warnings(as_json)
    with Bar(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                description=progress.detail,
            )
            if not console.is_terminal and progress.detail:
                _log.info(f"[{progress.done}/{progress.total}] {progress.detail}")

        with listening(show):
            if farm is None:
                found = tune(model, target, output, factory, tiles, seconds)
            else:
                with open_farm(farm, certificates, without_tls) as members:
                    found = tune_on_farm(model, target, output, members, factory, tiles, seconds)
    if as_json:
        print_json(found.to_dict())
        return
    say(f"measured {found.measured} of {found.operators} operators: {found.records}")
    if found.target is not None:
        say(f"target   {found.target}")
