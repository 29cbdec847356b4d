"""Verbs that make a network smaller: ``prune``, ``quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    DataFlag,
    FactoryFlag,
    FarmFlag,
    JsonFlag,
    PlainFlag,
    print_json,
    say,
    say_lines,
)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("prune")(prune_verb)
    app.command("quantize")(quantize_verb)


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
    latency_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the latency on the target to keep, measured here, e.g. 0.5."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=FACTOR", help="How much a task's loss may grow, e.g. pose=1.5."),
    ] = None,
    compensate: Annotated[
        bool | None,
        typer.Option(
            "--compensate/--no-compensate",
            help="Give layers that read removed channels new weights; on by default.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Prune for this task only; drops the heads of the others."),
    ] = None,
    keep_whole: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Modules whose weights keep their shapes, e.g. 'decoders.*'; may be given again.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The only modules that may lose channels; written as --keep-whole.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="Target whose goal, gates and multiples of widths are used."
        ),
    ] = "cpu",
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of recovery training at most; 0 for none.")
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What recovery trains: norms (and biases), all, or auto: the least that suffices.",
        ),
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--fresh", help="Continue a killed run of the same command."),
    ] = True,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page with the table and the curves.")
    ] = None,
    factory: FactoryFlag = None,
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove channels as far as the budget of every task allows, then train to recover.

    Without a goal or budget it keeps what 'compile' for the same target would: by default 40 % of
    the multiply-accumulates and of the parameters, or more if a task would lose too much.
    OUTPUT.prune.json records everything that was done. How to: docs/pruning-howto.md. With --farm,
    workers look at the held-out pictures for the search (docs/farm.md); the rest is done here.
    """
    from edgemtl import targets
    from edgemtl.pipeline.defaults import recipe_for
    from edgemtl.pipeline.pruning import PruneFile, prune_file
    from edgemtl.pipeline.settings import PruneSettings

    settings = PruneSettings(
        data=data or (),
        tasks=task or (),
        method=method,
        flops=flops,
        params=params,
        latency_ratio=latency_ratio,
        compensate=compensate,
        keep_whole=keep_whole or (),
        only=only or (),
        steps=steps,
        recover=recover,
    )
    budgets = [f"prune.budgets.{pair}" for pair in budget or []]
    suited = targets.load(target)
    recipe = recipe_for(suited, config, [*settings.assignments(), *budgets, *(assign or [])])
    asked = PruneFile(model, output, suited, recipe, factory, resume)
    if farm is None:
        pruned = prune_file(asked)
    else:
        from edgemtl.pipeline.farm.members import open_farm
        from edgemtl.pipeline.farm.pruning import on_workers

        with open_farm(farm, certificates, without_tls) as members:
            pruned = prune_file(asked, on_workers(members, factory))
    found = pruned.story()
    if report is not None:
        from edgemtl.record.prune_story import read_story
        from edgemtl.report.prune_page import write_prune_page

        write_prune_page(read_story(found), report, model.name)
    if as_json:
        print_json(found)
    else:
        from edgemtl.report.told import prune_lines

        for line in prune_lines(found):
            say_lines(line)
        say(output)
    pruned.check_goals()


def quantize_verb(
    model: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint, or float32 ONNX file that EdgeMTL wrote.", metavar="MODEL"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    data: DataFlag = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Target of the file; 'auto' measures on it.")
    ] = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, fp16 or int8; the target's by default.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=SHARE",
            help="Largest relative drop, e.g. pose=0.01; by default half of its gate.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How ranges are found: minmax, entropy or percentile.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Calibration pictures.")] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Node names or module paths that stay in float32; may be given again.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Recipe; its quantize section.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key.")
    ] = None,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Write an ONNX file in lower precision that keeps every task inside its budget.

    Exit code 6 if a budget could not be kept or checked; the file is written in any case.
    """
    from edgemtl import targets
    from edgemtl.errors import ExitCode
    from edgemtl.pipeline.defaults import recipe_for
    from edgemtl.pipeline.quantize_file import QuantizeFile, quantize_file
    from edgemtl.pipeline.settings import QuantizeSettings

    settings = QuantizeSettings(
        data=data or (),
        precision=precision,
        method=method,
        images=images,
        keep_float=keep_float or (),
    )
    budgets = [f"quantize.budgets.{pair}" for pair in budget or []]
    suited = targets.load(target)
    recipe = recipe_for(suited, config, [*settings.assignments(), *budgets, *(assign or [])])
    found = quantize_file(QuantizeFile(model, output, suited, recipe, factory)).to_dict()
    if as_json:
        print_json(found)
    else:
        from edgemtl.report.told import quantize_lines

        for line in quantize_lines(found):
            say(line)
        say(output)
    result = found["result"]
    if result is not None and not result["within_budgets"]:
        raise typer.Exit(int(ExitCode.ACCURACY_GATE))
