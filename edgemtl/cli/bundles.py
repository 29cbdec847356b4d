"""Verbs on bundles: ``verify``, ``sign`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    FactoryFlag,
    JsonFlag,
    print_json,
    say,
)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("verify")(verify_verb)
    app.command("sign")(sign_verb)
    app.command("run")(run_verb)


def verify_verb(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", metavar="BUNDLE")],
    trusted_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--trusted-key",
            metavar="PEM",
            help="Public Ed25519 key that must have signed it; of several, one must have.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every hash and run the self-test; exit code 10 when something does not hold."""
    from edgemtl.bundle.verify import verify

    report = verify(bundle, trusted_keys=trusted_key or ())
    if as_json:
        print_json(report.to_dict())
        return
    say(f"{bundle}: {report.files} files whole, {report.cases} self-test case(s) reproduced")
    if report.signed_by is not None:
        say(f"signed by the trusted key {report.signed_by}")
    elif report.signed:
        say("signed, but by whom was not checked: --trusted-key says whom to believe")


def sign_verb(
    bundle: Annotated[Path, typer.Argument(help="Bundle.", metavar="BUNDLE")],
    sign_key: Annotated[
        Path, typer.Option("--sign-key", metavar="PEM", help="Private Ed25519 key.")
    ],
) -> None:
    """Sign a bundle's manifest, in place; 'verify --trusted-key' checks it."""
    from edgemtl.bundle.signature import private_key, sign_bundle

    say(f"{bundle}: signed by {sign_bundle(bundle, private_key(sign_key))}")


def run_verb(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle, checkpoint or ONNX.", metavar="BUNDLE|MODEL|ONNX")
    ],
    image: Annotated[Path, typer.Argument(help="Picture.", metavar="IMAGE")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG to write; IMAGE.edgemtl.png by default."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Compute only this task (a bundle needs export.task_files for that)."),
    ] = None,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Use a network on a picture and draw what it sees."""
    from edgemtl.pipeline.running import run_on_image

    place = output or Path(f"{image.stem}.edgemtl.png")
    found = run_on_image(bundle, image, place, factory, task)
    if as_json:
        print_json(found)
        return
    say(f"{place}: " + ", ".join(f"{name}: {text}" for name, text in found["summary"].items()))
    for note in found["notes"]:
        say(f"note: {note}", warn=True)
