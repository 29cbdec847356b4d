"""What is said while the product works: who hears it, and who does not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from edgemtl.logs import ROOT, Lines, kept

log = logging.getLogger(f"{ROOT}.somewhere.deep")


def test_lines_are_printed_as_they_were_said() -> None:
    said: list[str] = []
    with Lines(said.append).shown():
        log.info("50 % of [bold]it[/bold]")
        log.info("two\nlines")
        log.debug("how far")
        log.warning("look here")
    log.info("nobody listens any more")
    assert said == ["50 % of [bold]it[/bold]", "two\nlines", "look here"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        (logging.DEBUG, ["far", "note", "warning"]),
        (logging.INFO, ["note", "warning"]),
        (logging.WARNING, ["warning"]),
    ],
)
def test_what_is_kept_does_not_depend_on_what_is_printed(level: int, heard: list[str]) -> None:
    said: list[str] = []
    notes: list[str] = []
    lines = Lines(said.append)
    with lines.shown():
        lines.show(level)
        with kept(notes.append):
            log.debug("far")
            log.info("note")
        assert (said, notes) == (["far"] if level == logging.DEBUG else [], ["note"])
        said.clear()
        log.debug("far")
        log.info("note")
        log.warning("warning")
    assert (said, notes) == (heard, ["note"])
    assert lines.level == logging.INFO


def test_how_much_may_be_said_before_anything_is_shown() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.show(logging.DEBUG)
    assert logging.getLogger(ROOT).level == logging.NOTSET
    with lines.shown():
        log.debug("far")
    assert said == ["far"]
    assert logging.getLogger(ROOT).level == logging.NOTSET


def test_a_stage_inside_another_keeps_its_own() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with Lines(lambda line: None).shown(), kept(outer.append):
        log.info("one")
        with kept(inner.append):
            log.info("two")
        log.info("three")
    assert (outer, inner) == (["one", "three"], ["two"])


def test_what_cannot_be_written_ends_the_work() -> None:
    def gone(line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), Lines(gone).shown():
        log.info("to nobody")
    assert logging.getLogger(ROOT).level == logging.NOTSET


def test_a_program_that_imports_the_product_hears_nothing_unless_it_asks() -> None:
    program = (
        "import logging, edgemtl; log = logging.getLogger('edgemtl.x'); "
        "log.info('a'); log.warning('b'); "
        "logging.basicConfig(level=logging.INFO, format='%(message)s'); log.info('c')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "c\n")
