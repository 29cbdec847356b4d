"""What ``inspect`` prints of targets: what they refuse, what to know, nothing twice."""

from __future__ import annotations

from typing import Any

import pytest

from edgemtl.report.inspection import print_inspection


def _found(*problems: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "available": True,
        "reason": "",
        "int8_runs_as_float": "",
        "problems": list(problems),
    }
    return {
        "file": "model.pt",
        "kind": "checkpoint",
        "params": None,
        "input": {"size": [4, 4], "channel_order": "rgb"},
        "tasks": {},
        "targets": {"intel-cpu": answer},
    }


def _problem(node: str, fatal: bool = True, reason: str = "ignores [axes]") -> dict[str, Any]:
    return {"op": "Resize", "node": node, "reason": reason, "advice": "use [sizes]", "fatal": fatal}


def test_brackets_stay_and_equal_sentences_stand_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_inspection(_found(*(_problem(f"head.{n}/Resize") for n in range(5))))
    told = " ".join(capsys.readouterr().out.split())
    assert "target intel-cpu: refuses 5 of the graph's nodes" in told
    assert told.count("ignores [axes] -> use [sizes]") == 1
    assert "'head.0/Resize', 'head.1/Resize', 'head.2/Resize' and 2 more" in told


@pytest.mark.parametrize(
    ("problems", "wanted"),
    [
        ((), "runs everything as written"),
        ((_problem("a", fatal=False),), "runs everything, with something to know"),
        ((_problem("a"), _problem("b", fatal=False, reason="else")), "refuses 1 of the graph's"),
    ],
)
def test_the_verdict_is_a_sentence(
    problems: tuple[Any, ...], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_inspection(_found(*problems))
    told = " ".join(capsys.readouterr().out.split())
    assert wanted in told and "node(s)" not in told
