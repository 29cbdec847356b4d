"""Verbs about the tool itself: examples, targets, devices, doctor, cache, schema, init."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    FarmFlag,
    JsonFlag,
    PlainFlag,
    print_json,
    say,
)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("examples")(examples_verb)
    app.command("targets")(targets_verb)
    app.command("devices")(devices_verb)
    app.command("doctor")(doctor_verb)
    app.command("cache")(cache_verb)
    app.command("schema")(schema_verb)
    app.command("init")(init_verb)


def examples_verb(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write them into.")
    ] = Path("examples"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace files of the same names.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an example checkpoint and a picture, to try the other verbs with."""
    from edgemtl.pipeline.examples import write_examples

    found = write_examples(output, force)
    if as_json:
        print_json([{**vars(one), "path": str(one.path)} for one in found])
        return
    for one in found:
        state = "" if one.written else ", was there already"
        say(f"{one.path}: {one.size_bytes / 1e6:.1f} MB{state}")
    say(f"next: edgemtl compile {found[0].path} --target cpu")


def targets_verb(as_json: JsonFlag = False) -> None:
    """List the targets and whether their runtime works here."""
    from edgemtl.pipeline.environment import target_list

    found = target_list()
    if as_json:
        print_json(found)
        return
    for target in found:
        state = f"{target['backend']} {target['version']}" if target["ok"] else "not here"
        say(f"{target['name']:<20} {state:<28} {target['description']}")
        if not target["ok"]:
            say(f"{'':<20} {target['reason']}")


def devices_verb(
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """List the devices of the targets, whether they are here, and how to measure on them."""
    from edgemtl.pipeline.environment import device_list

    found = device_list()
    boards = [] if farm is None else _boards(farm, certificates, without_tls)
    if as_json:
        print_json({"devices": found, "farm": boards})
        return
    for device in found:
        where = "here" if device["here"] else "elsewhere"
        say(f"{device['target']:<20} {device['device']:<18} {where:<10} {device['how']}")
    for board in boards:
        say(f"{board['device']:<20} {board['worker']:<18} {'farm':<10} {board['how']}")
    if farm is not None and not boards:
        say("no board has joined the farm", warn=True)


def _boards(address: str, certificates: Path | None, without_tls: bool) -> list[dict[str, str]]:
    from edgemtl.pipeline.farm.members import open_farm

    with open_farm(address, certificates, without_tls) as farm:
        workers = farm.workers()
    return [
        {
            "device": name.partition(":")[2],
            "worker": worker.name,
            "how": f"edgemtl bench BUNDLE --farm {address} --device {name.partition(':')[2]}",
        }
        for worker in workers
        for name in worker.resources
        if name.startswith("device:")
    ]


def doctor_verb(as_json: JsonFlag = False) -> None:
    """Tell what works on this machine, what does not, and what to do about it."""
    from edgemtl.pipeline.environment import examine

    found = examine()
    if as_json:
        print_json(found)
        return
    for check in found["checks"]:
        say(f"{'ok ' if check['ok'] else 'NO '} {check['name']}: {check['detail']}")
        if check["advice"]:
            say(f"    next: {check['advice']}")


def cache_verb(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all stage results.")] = False,
) -> None:
    """Show where stage results are kept and how much space they take."""
    from edgemtl.pipeline.cache import StageCache, default_folder

    cache = StageCache(default_folder() / "stages")
    if clear:
        cache.clear()
    say(f"{cache.folder}: {cache.size_bytes() / 1e6:.1f} MB")


def schema_verb() -> None:
    """Print the recipe's JSON Schema."""
    from edgemtl.recipes import Recipe

    print_json(Recipe.model_json_schema())


def init_verb(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; printed by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented recipe with every key and its default."""
    from edgemtl.errors import UsageError
    from edgemtl.files import write_text
    from edgemtl.pipeline.environment import commented_recipe

    text = commented_recipe()
    if output is None:
        sys.stdout.write(text)
        return
    if output.exists() and not force:
        raise UsageError("the file exists already", where=str(output), hint="--force overwrites")
    write_text(output, text)
    say(output)
