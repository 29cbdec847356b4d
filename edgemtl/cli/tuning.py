"""``tune``: measure which tiles are fastest for a network's operators."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import FactoryFlag, JsonFlag, print_json


def register(app: typer.Typer) -> None:
    """Add this module's verb."""
    app.command("tune")(tune_verb)


def tune_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file.", metavar="MODEL|ONNX")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Measurements, one JSON line each; resumed from."),
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Target of TVM that this machine is.")
    ] = "tvm-x86",
    tiles: Annotated[int, typer.Option(min=1, max=50, help="Tiles to try per operator.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of timing per operator.")] = 1.0,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure which tiles are fastest for a network's operators; stop and go on at any time.

    When all are measured, a target file is written beside the measurements, for 'compile --target'.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from edgemtl.pipeline.tuning import tune

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)

        def tell(done: int, total: int, line: str) -> None:
            bar.update(task, completed=done, total=total, description=line)
            if not as_json and not console.is_terminal and line:
                print(f"[{done}/{total}] {line}", file=sys.stderr)

        found = tune(model, target, output, tell, factory, tiles, seconds)
    if as_json:
        print_json(found.to_dict())
        return
    print(f"measured {found.measured} of {found.operators} operators: {found.records}")
    if found.target is not None:
        print(f"target   {found.target}")
