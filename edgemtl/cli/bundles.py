"""Verbs on bundles: ``verify`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import FactoryFlag, JsonFlag, print_json


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("verify")(verify_verb)
    app.command("run")(run_verb)


def verify_verb(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", metavar="BUNDLE")],
    as_json: JsonFlag = False,
) -> None:
    """Check every hash and run the self-test; exit code 10 when something does not hold."""
    from edgemtl.bundle.verify import verify

    report = verify(bundle)
    if as_json:
        print_json(report.to_dict())
        return
    print(f"{bundle}: {report.files} files whole, {report.cases} self-test case(s) reproduced")


def run_verb(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle, checkpoint or ONNX.", metavar="BUNDLE|MODEL|ONNX")
    ],
    image: Annotated[Path, typer.Argument(help="Picture.", metavar="IMAGE")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG to write; IMAGE.edgemtl.png by default."),
    ] = None,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Use a network on a picture and draw what it sees."""
    from edgemtl.pipeline.running import run_on_picture

    place = output or Path(f"{image.stem}.edgemtl.png")
    found = run_on_picture(bundle, image, place, factory)
    if as_json:
        print_json(found)
        return
    print(f"{place}: " + ", ".join(f"{name}: {text}" for name, text in found["summary"].items()))
