"""What is printed while a run goes, and how errors are told."""

from __future__ import annotations

import io
import json

import pytest

from edgemtl.cli.console import (
    TERMINAL,
    TerminalStages,
    only_warnings,
    print_error,
    print_json,
)
from edgemtl.errors import EdgemtlError, InputRefused, StageFailed, UsageError, unexpected
from edgemtl.pipeline.stage import StageRecord


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def go_through(lines: TerminalStages) -> None:
    lines.started(1, 12, "model")
    lines.finished(StageRecord("model", "done", 1.26, "key", ("21 parameters", "and a note")))
    lines.started(2, 12, "accuracy-reference")
    lines.finished(StageRecord("accuracy-reference", "cached", 0.0, "key", ("3 pictures",)))
    lines.started(12, 12, "gates")
    lines.finished(StageRecord("gates", "failed", 9.9, "key", ()))


PLAIN = [
    "[ 1/12] model                   1.3 s  21 parameters",
    "                                       and a note",
    "[ 2/12] accuracy-reference     cached  3 pictures",
    "[12/12] gates                  FAILED",
]


def test_a_log_gets_one_plain_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with TERMINAL.shown():
        go_through(TerminalStages())
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.rstrip() for line in told.err.splitlines()] == PLAIN
    assert "\r" not in told.err and "\x1b" not in told.err


def test_a_terminal_sees_the_stage_at_work_and_then_the_same_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    lines = TerminalStages()
    lines.started(1, 12, "model")
    at_work = terminal.getvalue()
    assert at_work.startswith("[ 1/12] model") and at_work.endswith("...\r")
    terminal.seek(0)
    terminal.truncate()
    with TERMINAL.shown():
        go_through(lines)
    # What a terminal shows of a line that was overwritten: its end.
    shown = [line.split("\r")[-1].rstrip() for line in terminal.getvalue().split("\n")]
    assert shown[:-1] == PLAIN
    for before, after in zip(
        terminal.getvalue().split("\r")[:-1], terminal.getvalue().split("\r")[1:], strict=True
    ):
        assert len(before.split("\n")[-1]) <= len(after.split("\n")[0])  # nothing shines through


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with TERMINAL.shown():
        only_warnings(True)
        go_through(TerminalStages())
    assert capsys.readouterr() == ("", "")


def test_errors_say_where_what_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(InputRefused("it is empty", where="model.pt", hint="give another"))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: model.pt: it is empty\nnext:  give another\n"


@pytest.mark.parametrize("kind", [EdgemtlError, *EdgemtlError.__subclasses__()])
def test_every_kind_of_error_has_a_next_step(
    kind: type[EdgemtlError], capsys: pytest.CaptureFixture[str]
) -> None:
    print_error(kind("something"))
    error, following = capsys.readouterr().err.splitlines()
    assert error == "error: something"
    assert following == f"next:  {kind.general_hint}"
    assert len({other.general_hint for other in EdgemtlError.__subclasses__()}) == len(
        EdgemtlError.__subclasses__()
    )


def test_an_error_is_one_line_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(StageFailed("first\nsecond\r\n\tthird \x1b[31mred\x07", where="a\nb", hint="c\nd"))
    assert capsys.readouterr().err == "error: a b: first second third ?[31mred?\nnext:  c d\n"


def test_defects_name_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    problem = unexpected(KeyError("x"))
    assert int(problem.exit_code) == 1
    print_error(problem)
    assert "unexpected KeyError: 'x'" in capsys.readouterr().err


def test_errors_are_plain_data_too() -> None:
    assert UsageError("a", where="b").to_dict() == {"message": "a", "where": "b"}


def test_json_is_one_document_without_numbers_that_are_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json({"a": [1, 2]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(ValueError):
        print_json({"a": float("nan")})


def test_json_holds_no_order_to_a_ci_service(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"a": ["##vso[task.complete]", "##[error]x", "###[x", "# a #"]}
    print_json(data)
    told = capsys.readouterr().out
    assert "##[" not in told and "##vso[" not in told
    assert json.loads(told) == data
