"""Verdicts for machines that show test results: JUnit XML, GitHub annotations, Bencher metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl import files
from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.gates.regression import Change, RegressionReport
from edgemtl.gates.snapshot import Snapshot
from edgemtl.measure.statistics import summarise
from edgemtl.sinks import ci_message, ci_property, junit


def describe(outcome: GateOutcome) -> str:
    """One line: what was found, against what, and the detail."""
    unit = f" {outcome.unit}" if outcome.unit else ""
    found = "nothing" if outcome.measured is None else f"{outcome.measured:.6g}{unit}"
    side = "at least" if outcome.name.endswith(".min") else "at most"
    line = f"{outcome.status}: {found}, allowed {side} {outcome.limit:.6g}{unit}"
    return f"{line}; {outcome.detail}" if outcome.detail else line


def describe_change(change: Change) -> str:
    """One line: both figures, how much worse, what is allowed, and the detail."""
    unit = f" {change.unit}" if change.unit else ""
    sides = ["nothing" if v is None else f"{v:.6g}{unit}" for v in (change.before, change.after)]
    line = f"{change.status}: {sides[0]} -> {sides[1]}"
    if change.change is not None:
        word = "worse" if change.change > 0 else "better"
        line += f", {abs(change.change):.2%} {word}" if change.change else ", unchanged"
    if change.limit is not None:
        line += f" (allowed {change.limit:.2%})"
    return f"{line}; {change.detail}" if change.detail else line


@dataclass(frozen=True)
class _Case:
    """One verdict: its name, how it went (pass, fail, error, skipped), and the line about it."""

    name: str
    outcome: str
    kind: str
    text: str


def _gate_cases(report: GateReport) -> Iterator[_Case]:
    for gate in report.outcomes:
        outcome = gate.status if gate.status in ("pass", "fail") else "error"
        skipped = gate.ok and gate.status != "pass"
        yield _Case(gate.name, "skipped" if skipped else outcome, gate.status, describe(gate))


def _change_cases(report: RegressionReport) -> Iterator[_Case]:
    for change in report.changes:
        outcome = "fail" if change.status == "fail" else "error"
        if change.ok:
            # What nobody judged is shown as skipped: it neither passed nor failed.
            outcome = "pass" if change.status in ("pass", "improved") else "skipped"
        yield _Case(change.name, outcome, change.status, describe_change(change))


def write_junit(
    report: GateReport | None,
    path: Path,
    suite: str = "edgemtl gates",
    regression: RegressionReport | None = None,
) -> None:
    """Write one test case per verdict, atomically; figures against a baseline in a second suite.

    A failed gate is a failure; one that was not measured or not stable is an error, or skipped
    when the user allowed it to go unmeasured.

    Raises:
        StageFailed: the file cannot be written.
    """
    import junitparser

    document = junitparser.JUnitXml(junit(suite))
    groups = [(junit(suite), _gate_cases(report))] if report else []
    if regression is not None:
        groups.append(("edgemtl regression", _change_cases(regression)))
    for name, found in groups:
        cases = junitparser.TestSuite(name)
        for entry in found:
            title, text = junit(entry.name), junit(entry.text)
            # The part before the last dot groups them in a viewer; the case keeps the whole name.
            case = junitparser.TestCase(title, classname=title.rpartition(".")[0])
            if entry.outcome == "pass":
                case.system_out = text
            elif entry.outcome == "fail":
                case.result = [junitparser.Failure(text, "fail")]
            elif entry.outcome == "skipped":
                case.result = [junitparser.Skipped(text)]
            else:
                case.result = [junitparser.Error(text, junit(entry.kind))]
            cases.add_testcase(case)
        document.add_testsuite(cases)
    document.update_statistics()  # type: ignore[no-untyped-call]
    files.write_atomically(path, lambda stream: document.write(stream, pretty=True))


def github_annotations(
    report: GateReport | None, regression: RegressionReport | None = None
) -> list[str]:
    """Workflow commands that make a CI page show what did not pass.

    An ``::error`` line per verdict that stops the run, a ``::notice`` per one that was allowed to
    go unmeasured; none for a pass, and none for a figure that is only reported.
    """
    cases = [("gate", case) for case in (_gate_cases(report) if report else ())]
    for change, case in zip(
        regression.changes if regression else (),
        _change_cases(regression) if regression else (),
        strict=True,
    ):
        if change.status != "reported":
            cases.append(("regression", case))
    lines = []
    for word, case in cases:
        if case.outcome != "pass":
            level = "notice" if case.outcome == "skipped" else "error"
            title = ci_property(f"{word} {case.name.removeprefix('regression.')}")
            lines.append(f"::{level} title={title}::{ci_message(case.text)}")
    return lines


def bencher_metrics(snapshot: Snapshot) -> dict[str, Any]:
    """Bencher Metric Format: ``{benchmark: {measure: {"value": ...}}}``.

    Latency is in nanoseconds, as Bencher's own measure of that name; its lower and upper values
    are the fastest run and the 99th percentile. Figures of merit and costs are measures of their
    own names in their own units.
    """
    measures: dict[str, dict[str, float]] = {}
    if snapshot.latency is not None and snapshot.latency.stable:
        summary = summarise(snapshot.latency.samples_ms)
        measures["latency"] = {
            "value": summary.p50_ms * 1e6,
            "lower_value": summary.min_ms * 1e6,
            "upper_value": summary.p99_ms * 1e6,
        }
        measures["latency-p99"] = {"value": summary.p99_ms * 1e6}
    for task, rows in snapshot.tasks.items():
        for key, row in rows.items():
            if row.value is not None:
                measures[f"{task}-{key}".replace("_", "-")] = {"value": row.value}
    for key, value in snapshot.cost.items():
        measures[key.replace("_", "-")] = {"value": value}
    return {snapshot.name: measures}
