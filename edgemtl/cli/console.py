"""What verbs share for talking to a person, a log file or a program."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgemtl.errors import EdgemtlError
from edgemtl.logs import Lines
from edgemtl.pipeline.stage_lines import StageLines
from edgemtl.sinks import json_text, table_line, terminal

#: flags that several verbs have
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, nothing else.")
]
FactoryFlag = Annotated[
    str | None,
    typer.Option(
        "--factory",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Build your own network with this function (it is imported and run).",
    ),
]
ReferenceFlag = Annotated[
    Path | None,
    typer.Option(
        "--reference",
        metavar="DENSE",
        help="Compare with this dense checkpoint; by default with the one that a pruned checkpoint "
        "names, if it is found.",
    ),
]
DataFlag = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="Folder with labelled pictures (DIR/SPLIT/images, label.txt); may be given again.",
    ),
]
FarmFlag = Annotated[
    str | None,
    typer.Option("--farm", metavar="ADDRESS", help="Use this farm: tls://HOST[:PORT]."),
]
CertificatesFlag = Annotated[
    Path | None,
    typer.Option(
        "--certificates",
        metavar="DIR",
        help="The farm's certificates; EDGEMTL_FARM_CERTIFICATES by default.",
    ),
]
PlainFlag = Annotated[
    bool,
    typer.Option("--without-tls", help="Allow a tcp:// address of this machine, to try a farm."),
]


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json_text(json.dumps(data, indent=2, allow_nan=False)) + "\n")


def print_error(error: EdgemtlError) -> None:
    """Print what was wrong, where, and what to do next, on standard error."""
    place = "" if error.where is None else f"{error.where}: "
    print(f"error: {terminal(place + error.message)}", file=sys.stderr)
    print(f"next:  {terminal(error.hint or error.general_hint)}", file=sys.stderr)


def say(text: object = "", *, warn: bool = False) -> None:
    """Print one line of a verb's answer, whatever names and paths are in it.

    Args:
        text: the line; what a terminal or a CI service would act on is taken out of it.
        warn: on standard error instead of standard output.
    """
    print(table_line(str(text)), file=sys.stderr if warn else sys.stdout, flush=True)


def say_lines(text: str) -> None:
    """Print text of ours that has several lines, each as :func:`say` does."""
    for line in text.removesuffix("\n").split("\n"):
        say(line)


def _print(line: str) -> None:
    # One message is one line, or several of ours; a name in it can at most begin a harmless one.
    for part in line.split("\n"):
        say(part, warn=True)


#: what the product says while it works, on standard error; part of :func:`edgemtl.logs` while the
#: command line runs
TERMINAL = Lines(_print)


def only_warnings(wanted: bool) -> None:
    """Say nothing below a warning from now on, where that is wanted; ``-v`` goes before it."""
    if wanted and TERMINAL.level > logging.DEBUG:
        TERMINAL.show(logging.WARNING)


class TerminalStages(StageLines):
    """Says how a run goes, one line per stage; on a terminal the current one is shown too."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = sys.stderr.isatty() and TERMINAL.level <= logging.INFO

    def started(self, position: int, total: int, stage: str) -> None:
        """A stage has begun."""
        super().started(position, total, stage)
        if self._terminal:
            print(f"{self.head} ...", end="\r", file=sys.stderr, flush=True)
