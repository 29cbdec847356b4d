"""Gate reports for machines that show test results: JUnit XML and GitHub annotations."""

from __future__ import annotations

from pathlib import Path

from edgemtl import files
from edgemtl.gates.judge import GateOutcome, GateReport


def describe(outcome: GateOutcome) -> str:
    """One line: what was found, against what, and the detail."""
    unit = f" {outcome.unit}" if outcome.unit else ""
    found = "nothing" if outcome.measured is None else f"{outcome.measured:.6g}{unit}"
    side = "at least" if outcome.name.endswith(".min") else "at most"
    line = f"{outcome.status}: {found}, allowed {side} {outcome.limit:.6g}{unit}"
    return f"{line}; {outcome.detail}" if outcome.detail else line


def write_junit(report: GateReport, path: Path, suite: str = "edgemtl gates") -> None:
    """Write one test case per gate, atomically.

    A failed gate is a failure; one that was not measured or not stable is an error, or skipped
    when the user allowed it to go unmeasured.

    Raises:
        StageFailed: the file cannot be written.
    """
    import junitparser

    cases = junitparser.TestSuite(suite)
    for outcome in report.outcomes:
        # The part before the last dot groups the gates in a viewer; the case keeps the whole name.
        case = junitparser.TestCase(outcome.name, classname=outcome.name.rpartition(".")[0])
        text = describe(outcome)
        if outcome.status == "pass":
            case.system_out = text
        elif outcome.status == "fail":
            case.result = [junitparser.Failure(text, "fail")]
        elif outcome.ok:
            case.result = [junitparser.Skipped(text)]
        else:
            case.result = [junitparser.Error(text, outcome.status)]
        cases.add_testcase(case)
    document = junitparser.JUnitXml(suite)
    document.add_testsuite(cases)
    document.update_statistics()  # type: ignore[no-untyped-call]
    files.write_atomically(path, lambda stream: document.write(stream, pretty=True))


def github_annotations(report: GateReport) -> list[str]:
    """Workflow commands that make a CI page show what did not pass.

    An ``::error`` line per gate that stops the run, a ``::notice`` per gate that was allowed to go
    unmeasured; none for a pass.
    """
    lines = []
    for outcome in report.outcomes:
        if outcome.status == "pass":
            continue
        level = "notice" if outcome.ok else "error"
        title = _property(f"gate {outcome.name}")
        lines.append(f"::{level} title={title}::{_text(describe(outcome))}")
    return lines


def _text(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _text(value).replace(":", "%3A").replace(",", "%2C")
