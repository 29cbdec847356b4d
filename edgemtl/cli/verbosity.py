"""``-v`` and ``-q``: how much a verb says on standard error while it works."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from edgemtl.cli.console import TERMINAL


def _say_more(wanted: bool) -> None:
    if wanted:
        TERMINAL.show(logging.DEBUG)


def _say_less(wanted: bool) -> None:
    if wanted:
        TERMINAL.show(logging.WARNING)


VerboseFlag = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_say_more,
        expose_value=False,
        help="Print more while it works: the progress of every loop, and the programs it starts.",
    ),
]
QuietFlag = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_say_less,
        expose_value=False,
        help="Print only warnings and errors while it works.",
    ),
]


_flags = typer.Typer(add_completion=False)


@_flags.command(add_help_option=False)
def _(verbose: VerboseFlag = False, quiet: QuietFlag = False) -> None: ...


class _Verb(TyperCommand):
    """A command that has both flags behind its own."""

    def __init__(self, *arguments: Any, params: list[Any] | None = None, **more: Any) -> None:
        both = typer.main.get_command(_flags).params
        super().__init__(*arguments, params=[*(params or []), *both], **more)


def add_verbosity(verbs: typer.Typer) -> None:
    """Give every verb both flags; their functions need not know of them."""
    for verb in verbs.registered_commands:
        verb.cls = _Verb
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            add_verbosity(group.typer_instance)
