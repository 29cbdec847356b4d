"""Verbs that make a network smaller: ``prune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import FactoryFlag, JsonFlag, print_json


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("prune")(prune_verb)


def prune_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Folder with a training split; may be given again."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Recipe; its prune and recover sections.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="pagcp, pagcp-paper, l1-uniform, l1-global, taylor-global, unanimous or knapsack."
        ),
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Share of multiply-accumulates to keep, e.g. 0.4.")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Share of parameters to keep.")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FACTOR", help="How much a task's loss may grow, e.g. pose=1.5."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Prune for this task; drops other heads.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Widths stay multiples that suit this target.")
    ] = "cpu",
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of recovery training; 0 for none.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--fresh", help="Go on where a killed run of the same call stopped."),
    ] = True,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Cut channels as far as every task's own budget allows, then train to recover."""
    from edgemtl.pipeline.pruning import prune_file

    settings = {
        "prune.method": method,
        "prune.flops": flops,
        "prune.params": params,
        "recover.steps": steps,
    }
    assignments = [f"{key}={value}" for key, value in settings.items() if value is not None]
    assignments += [f"prune.budgets.{pair}" for pair in budget or []]
    if data:
        assignments.append(f"data.root={[str(folder) for folder in data]!r}")
    if task:
        assignments.append(f"model.tasks={list(task)!r}")

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    found = prune_file(
        model, output, target, config, [*assignments, *(assign or [])], resume, factory, tell
    )
    if as_json:
        print_json(found)
        return
    dense, pruned = found["dense"], found["pruned"]
    for figure in ("macs", "params"):
        share = pruned[figure] / dense[figure]
        sizes = f"{dense[figure]:>16,.0f} -> {pruned[figure]:>16,.0f}"
        print(f"{figure:<8} {sizes}  ({share:.1%} kept)")
    for note in found["notes"]:
        print(f"note: {note}")
    print(output)
