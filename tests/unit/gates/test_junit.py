"""Gate reports as JUnit XML and CI annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgemtl.errors import StageFailed
from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.gates.junit import github_annotations, write_junit

REPORT = GateReport(
    (
        GateOutcome("tasks.pose.max_relative_drop", "fail", 0.1, 0.02, "", "5 -> 5.5, <b> & 10%"),
        GateOutcome("tasks.detection.min", "pass", 0.8, 0.7, "", "AP"),
        GateOutcome("latency.p99_ms", "unstable", 12.0, 10.0, "ms", "it drifted"),
        GateOutcome("latency.ratio", "not-measured", None, 1.05, "", "no device", allowed=True),
        GateOutcome("cost.size_bytes", "not-measured", None, 100.0, "B", "no artefact"),
    )
)


def test_one_case_per_gate(tmp_path: Path) -> None:
    path = tmp_path / "out" / "junit.xml"
    write_junit(REPORT, path)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    counts = [suite.get(key) for key in ("tests", "failures", "errors", "skipped")]
    assert counts == ["5", "1", "2", "1"]
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == [outcome.name for outcome in REPORT.outcomes]
    failed = cases["tasks.pose.max_relative_drop"]
    assert failed.get("classname") == "tasks.pose"
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == ("fail: 0.1, allowed at most 0.02; 5 -> 5.5, <b> & 10%")
    error = cases["latency.p99_ms"].find("error")
    assert error is not None and error.get("type") == "unstable"
    assert cases["latency.ratio"].find("skipped") is not None
    assert cases["cost.size_bytes"].find("error") is not None
    output = cases["tasks.detection.min"].find("system-out")
    assert output is not None and output.text == "pass: 0.8, allowed at least 0.7; AP"


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageFailed):
        write_junit(REPORT, tmp_path / "file" / "junit.xml")


def test_annotations() -> None:
    lines = github_annotations(REPORT)
    assert [line.split()[0] for line in lines] == ["::error", "::error", "::notice", "::error"]
    assert lines[0] == (
        "::error title=gate tasks.pose.max_relative_drop::"
        "fail: 0.1, allowed at most 0.02; 5 -> 5.5, <b> & 10%25"
    )


def test_annotation_cannot_be_broken_out_of() -> None:
    nasty = GateOutcome("tasks.a:b,c\n::x.min", "fail", 1.0, 2.0, "", "line\r\n::error::y")
    (line,) = github_annotations(GateReport((nasty,)))
    assert "\n" not in line and "\r" not in line
    assert line.startswith("::error title=gate tasks.a%3Ab%2Cc%0A%3A%3Ax.min::")
