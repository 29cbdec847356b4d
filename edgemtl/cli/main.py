"""The command line: one Typer app, one module per family of verbs.

Modules here parse, call and print. Nothing heavy is imported before a verb runs, so that
``edgemtl --help`` answers at once.
"""

from __future__ import annotations

import copy
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

# Threads that spin while they wait make a shared machine many times slower; it must be said before
# the first import of torch, here or in a process that we start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from edgemtl import __version__
from edgemtl.cli import (
    bundles,
    compiling,
    compressing,
    farm,
    information,
    masking,
    measuring,
    models,
    results,
    trend,
    tuning,
)
from edgemtl.cli.console import TERMINAL, print_error
from edgemtl.cli.stopping import ending_cleanly
from edgemtl.cli.verbosity import QuietFlag, VerboseFlag, add_verbosity
from edgemtl.errors import EdgemtlError, UsageError
from edgemtl.files import as_told

app = typer.Typer(
    name="edgemtl",
    help="From a trained multi-task network to a verified bundle for an edge device.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 2 usage, 3 input refused, 4 stage failed, 5 parity, 6 accuracy gate, "
    "7 cost gate, 8 not available, 9 unstable measurement, 10 verification failed.",
)
for module in (
    compiling,
    compressing,
    masking,
    models,
    measuring,
    tuning,
    results,
    trend,
    bundles,
    farm,
    information,
):
    module.register(app)
add_verbosity(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgemtl {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: VerboseFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Every verb tells its flags with --help."""
    context.with_resource(TERMINAL.shown())


def _forget_flags(verbs: typer.Typer) -> None:
    """Leave of every verb its name and its text, which is all that the list of them shows.

    Reading the flags of all verbs would be a good part of the time of ``edgemtl --help``.
    """
    for verb in verbs.registered_commands:
        verb.callback = _without_flags(verb.callback)
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            _forget_flags(group.typer_instance)


def _without_flags(callback: Callable[..., Any] | None) -> Callable[[], None]:
    def verb() -> None: ...

    verb.__doc__ = None if callback is None else callback.__doc__
    return verb


def _check_utf8(arguments: Sequence[str]) -> None:
    """Refuse what no report, manifest or runtime could write down.

    Raises:
        UsageError: a name of a file or folder is not UTF-8.
    """
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UsageError("this name is not UTF-8", where=argument, hint="rename it")


def main() -> None:
    """Run the command line and leave with a documented exit code, never a traceback.

    ``EDGEMTL_DEBUG=1`` lets the traceback through, for those who look for a defect of ours.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A log may be ASCII; a letter that it does not have must not end the run.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] or ["--help"]
    verbs = app
    if arguments in (["--help"], ["-h"]):
        verbs = copy.deepcopy(app)
        _forget_flags(verbs)
    if os.environ.get("EDGEMTL_DEBUG") == "1":
        verbs(arguments)
    try:
        _check_utf8(arguments)
        with ending_cleanly():
            # Typer answers --help (0), Ctrl-C (130) and a reader of our output that has gone (1).
            code = verbs(arguments, standalone_mode=False) or 0
        sys.exit(code)
    except typer.TyperException as error:
        hint = "'edgemtl --help' lists the verbs, 'edgemtl VERB --help' its flags"
        problem: EdgemtlError = UsageError(error.format_message(), hint=hint)
    except Exception as error:
        problem = as_told(error)
    print_error(problem)
    sys.exit(int(problem.exit_code))
