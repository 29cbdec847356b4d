"""The verb ``mask``: a network that does less for pictures that need less."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgemtl.cli.console import (
    DataFlag,
    FactoryFlag,
    JsonFlag,
    print_json,
    say,
    toml_list,
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

    settings = {
        "mask.macs": keep,
        "mask.prototypes": prototypes,
        "mask.threshold": threshold,
        "mask.nested": "true" if nested else None,
        "mask.images": images,
        "mask.router_images": router_images,
        "mask.steps": steps,
        "mask.shared": "true" if shared else None,
        "mask.precision": precision,
        "mask.channel_multiple": multiple,
        "mask.force": "true" if force else None,
        "data.seed": seed,
    }
    assignments = [f"{key}={value}" for key, value in settings.items() if value is not None]
    if data:
        assignments.append(f"data.root={toml_list(map(str, data))}")
    suited = targets.load(target)
    recipe = recipe_for(suited, config, [*assignments, *(assign or [])])

    story = mask_file(MaskFile(model, output, suited, recipe, factory))
    if as_json:
        print_json(story)
        return
    _print(story)
    if output is not None:
        say(output)


def _print(story: dict[str, Any]) -> None:
    found = story["analysis"]
    for pair, value in found["overlap"].items():
        say(f"{'masks of ' + pair:<44} {value:.2f} alike")
    for key, label in (("dependence", "channels weighted by task"), ("dependence_of_mass", "mass")):
        one = found[key]
        share = one["dependent_share"]
        text = f"{one['mean']:.3f}, {share:.0%} of the work in groups that depend"
        say(f"{'dependence on the picture (' + label + ')':<44} {text}")
    kinds = (("static", "one mask"), ("prototypes", "prototypes"))
    for key, label in kinds:
        added = ", ".join(f"{t} {v:+.1%}" for t, v in found[f"added_{key}"].items())
        macs = found[f"mean_macs_{key}"]
        say(f"{label + ' at ' + format(macs, '.0%') + ' of the MACs':<44} loss {added}")
    for note in found["notes"]:
        say(f"note: {note}")
    say(found["decision"])
    built = story["built"]
    if built is not None:
        router = built["router"]
        say(
            f"router: {router['accuracy']:.1%} right, {built['shares'][0]:.1%} of the pictures go "
            f"to the full network, mean {built['mean_macs'] / built['macs'][0]:.0%} of its MACs"
        )
        weights = story["weights"]
        say(
            f"on disk {weights['bytes_shared'] / 1e6:.1f} MB, "
            f"{weights['bytes_apart'] / 1e6:.1f} MB if weights were not shared"
        )
