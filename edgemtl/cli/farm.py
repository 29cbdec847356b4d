"""``farm``: certificates, scheduler, workers, and who is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    JsonFlag,
    PlainFlag,
    print_json,
    say,
)

app = typer.Typer(
    name="farm", help="Run jobs on other machines (docs/farm.md).", no_args_is_help=True
)

SchedulerArgument = Annotated[
    str, typer.Argument(help="The scheduler: tls://HOST[:PORT].", metavar="ADDRESS")
]
FolderFlag = Annotated[
    Path | None,
    typer.Option("--folder", help="Files of jobs; below the cache folder by default."),
]


def register(root: typer.Typer) -> None:
    """Add this module's verbs."""
    root.add_typer(app)


@app.command("certificates")
def certificates_verb(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.", metavar="DIR")],
    name: Annotated[
        list[str] | None,
        typer.Argument(help="Pairs to make: scheduler, worker and client by default."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="Days until they expire.")] = 730,
) -> None:
    """Make the farm's own authority and a pair of certificate and key for each of its members."""
    from edgemtl.devices.farm.certificates import CA_KEY, make_certificates

    written = make_certificates(folder, name or ["scheduler", "worker", "client"], days)
    for path in written:
        note = "  keep it here: whoever has it can join anybody" if path.name == CA_KEY else ""
        say(f"wrote    {path}{note}")
    if not written:
        say(f"nothing to do: all of them are in {folder}")


@app.command("scheduler")
def scheduler_verb(
    address: Annotated[
        str, typer.Argument(help="Where to listen.", metavar="[ADDRESS]")
    ] = "tls://0.0.0.0:8786",
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    folder: FolderFlag = None,
) -> None:
    """Run the scheduler that workers join, until Ctrl-C."""
    from edgemtl.devices.farm.address import Credentials, FarmAddress
    from edgemtl.devices.farm.service import run_scheduler
    from edgemtl.pipeline.farm.members import own_folder

    where = FarmAddress.parse(address, without_tls)
    credentials = Credentials.of(where, certificates, "scheduler")
    run_scheduler(where, credentials, folder or own_folder() / "scheduler")


@app.command("worker")
def worker_verb(
    address: SchedulerArgument,
    device: Annotated[
        str | None,
        typer.Option(
            help="This machine is a board: only bench, one at a time, offered as device:NAME=1."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Unique in the farm; made of host and device by default.")
    ] = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    folder: FolderFlag = None,
) -> None:
    """Join a farm from this machine, until Ctrl-C: for every job but benches, or as a board."""
    from edgemtl.devices.farm.address import Credentials, FarmAddress
    from edgemtl.devices.farm.service import run_worker, worker_name
    from edgemtl.pipeline.farm.members import offered, own_folder

    where = FarmAddress.parse(address, without_tls)
    credentials = Credentials.of(where, certificates, "worker")
    called = name or worker_name(device)
    place = folder or own_folder() / "worker"
    run_worker(where, credentials, place, called, offered(device, called))


@app.command("status")
def status_verb(
    address: SchedulerArgument,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """List the workers of a farm, what they offer and what they are doing."""
    from edgemtl.pipeline.farm.members import open_farm

    with open_farm(address, certificates, without_tls) as farm:
        workers = farm.workers()
    if as_json:
        print_json([{**w.__dict__, "resources": dict(w.resources)} for w in workers])
        return
    for worker in workers:
        offers = ", ".join(f"{key}={amount:g}" for key, amount in worker.resources.items())
        jobs = "free" if not worker.busy else f"{worker.busy} job(s)"
        say(f"{worker.name:<28} {jobs:<10} {offers}")
    if not workers:
        say("no worker has joined", warn=True)
