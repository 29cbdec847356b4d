"""The verb ``mask``: a network that does less for pictures that need less."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    DataFlag,
    FactoryFlag,
    JsonFlag,
    print_json,
    say,
)
from edgemtl.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this module's verb."""
    app.command("mask")(mask_verb)


def mask_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint.", metavar="MODEL")],
    data: DataFlag = None,
    analyse: Annotated[
        bool,
        typer.Option("--analyse", help="Only say whether pictures differ enough; build nothing."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for networks, router and bundle.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Target of the bundle; widths are chosen for it.")
    ] = "cpu",
    prototypes: Annotated[
        int | None, typer.Option(min=1, max=16, help="Networks to choose from.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Share of multiply-accumulates left, mean over pictures.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Share of importance that a picture's own mask keeps.")
    ] = None,
    nested: Annotated[
        bool, typer.Option("--nested", help="Take prototypes as widths of one order of channels.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=16, help="Calibration pictures; as many more are held out.")
    ] = None,
    router_images: Annotated[
        int | None, typer.Option(min=32, help="Training pictures for router and prototypes.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Training steps per prototype; 0: statistics only."),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared", help="Train only norms and biases, so that networks share their weights."
        ),
    ] = False,
    precision: Annotated[
        float | None, typer.Option(help="Share of right choices among those the router is sure of.")
    ] = None,
    multiple: Annotated[
        int | None, typer.Option(min=1, help="Widths are multiples of it; the target's by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build even if the analysis advises against it.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Recipe; its mask section.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key.")
    ] = None,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Find out whether pictures differ enough for different networks; build them if so.

    If held-out pictures gain nothing, the simpler network is kept and nothing is built.
    """
    if analyse == (output is not None):
        raise UsageError(
            "either --analyse or --output", hint="--analyse measures, --output FOLDER builds too"
        )
    from edgemtl import targets
    from edgemtl.pipeline.defaults import recipe_for
    from edgemtl.pipeline.masking import MaskFile, mask_file
    from edgemtl.pipeline.settings import MaskSettings

    settings = MaskSettings(
        data=data or (),
        seed=seed,
        keep=keep,
        prototypes=prototypes,
        threshold=threshold,
        nested=nested or None,
        images=images,
        router_images=router_images,
        steps=steps,
        shared=shared or None,
        precision=precision,
        multiple=multiple,
        force=force or None,
    )
    suited = targets.load(target)
    recipe = recipe_for(suited, config, [*settings.assignments(), *(assign or [])])

    story = mask_file(MaskFile(model, output, suited, recipe, factory))
    if as_json:
        print_json(story)
        return
    from edgemtl.report.told import mask_lines

    for line in mask_lines(story):
        say(line)
    if output is not None:
        say(output)
