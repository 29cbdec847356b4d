"""The tool that asks runtimes: its processes, its verdicts, its table."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import check_runtimes as tool  # noqa: E402 - lies in tools/
from runtimes import cases, forked, judging, kept, pages, random_cases, table  # noqa: E402

from edgemtl.backends.conformance.rules import all_rules  # noqa: E402

OPERATORS = ("ReduceL1", "ConvTranspose", "Resize")


@pytest.fixture(scope="module")
def drawn() -> list[cases.Case]:
    return [c for c in random_cases.cases(3, 5) if c.name.split("/")[1].startswith(OPERATORS)]


def test_a_case_cannot_harm_the_program_that_asks() -> None:
    def die() -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGKILL)

    def sleep() -> dict[str, object]:
        time.sleep(30)
        return {}

    def grow() -> dict[str, object]:
        return {"size": len(bytearray(1 << 30))}

    assert forked.forked(lambda: {"fine": 1}, 10, 256) == {"fine": 1}
    assert forked.forked(die, 10, 256) is None
    began = time.monotonic()
    assert forked.forked(sleep, 0.3, 256) is None
    assert time.monotonic() - began < 10
    assert forked.forked(grow, 10, 256) is None


def test_an_answer_is_right_within_its_tolerance_only() -> None:
    wanted = np.array([1.0, -2.0, np.inf], np.float32)
    case = cases.Case("node/a/constants", b"", wanted, (wanted,))
    assert cases.difference(case, [wanted * np.float32(1.0005)]) == ""
    assert "of its range" in cases.difference(case, [wanted + np.float32([0.1, 0, 0])])
    assert "not finite" in cases.difference(case, [np.array([1, -2, 3], np.float32)])
    assert "shape" in cases.difference(case, [wanted[:2]])
    assert "outputs" in cases.difference(case, [])
    whole = cases.Case("node/a/constants", b"", wanted, (np.array([1, 2]),))
    assert "integers" in cases.difference(whole, [np.array([1, -1])])


def test_random_cases_come_back_from_their_seed(drawn: list[cases.Case]) -> None:
    again = [c for c in random_cases.cases(3, 5) if c.name.split("/")[1].startswith(OPERATORS)]
    assert [c.model for c in drawn] == [c.model for c in again] and len(drawn) >= 6
    for case in drawn:
        model = onnx.load_from_string(case.model)
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.input) == 1 and case.source == "random"
    assert {c.variant for c in drawn} == set(random_cases.VARIANTS)


def test_it_asks_once_and_shows_what_it_found(
    drawn: list[cases.Case],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = cases.Case("node/off/constants", drawn[0].model, drawn[0].image, (np.zeros(3),))
    monkeypatch.setattr(tool, "all_cases", lambda *_: iter([*drawn[:2], wrong]))
    words = ["run", "--work", str(tmp_path), "--only", "onnxruntime"]
    assert tool.main(words) == 0
    size = (tmp_path / "found.jsonl").stat().st_size
    assert tool.main(words) == 0  # nothing is asked again
    assert (tmp_path / "found.jsonl").stat().st_size == size
    assert tool.main(["show", "--work", str(tmp_path), "--all", "wrong"]) == 0
    told = capfd.readouterr().out
    assert "random: 2 right" in told and "1 wrong" in told and "node/off/constants" in told


def test_the_table_says_what_a_new_version_does_otherwise(tmp_path: Path) -> None:
    def found(version: str, case: str, outcome: str) -> kept.Found:
        return kept.Found("tvm", version, "plain", case, outcome, "", ("Resize",))

    old = [found("1", "a", "right"), found("1", "b", "wrong"), found("1", "c", "died")]
    table.write(tmp_path / "outcomes.csv", table.outcomes(old))
    text = (tmp_path / "outcomes.csv").read_text("utf-8")
    assert "died" not in text and "c,late" in text and "\na," not in text
    new = [found("2", "a", "late"), found("2", "b", "right"), found("2", "c", "late")]
    before, now = table.read(tmp_path / "outcomes.csv"), table.outcomes(new)
    lines = table.changes(before, now, {"a": ("Resize",), "b": ("Resize",)})
    assert lines == [
        "tvm 1 -> 2: 2 of 3 cases changed",
        "  Resize a: right -> late",
        "  Resize b: wrong -> right",
    ]


def test_rules_are_judged_on_what_they_were_not_written_from(drawn: list[cases.Case]) -> None:
    chosen = [c for c in random_cases.cases(2, 1) if "ReduceL1-" in c.name or "Abs-" in c.name]
    chosen += [c for c in drawn if "ReduceL1-" in c.name]
    outcomes = {"R": "wrong", "A": "right"}
    found = {
        c.name: kept.Found("tvm", "1", "plain", c.name, outcomes[c.name.split("/")[1][0]], "", ())
        for c in chosen
    }
    told = judging.judge(chosen, found, "somebody's own")
    assert told["seen"].bad == 1 and told["unseen"].bad >= 2
    assert told["seen"].named == 0 and told["seen"].missed == ["random/ReduceL1-1-0/constants"]
    assert told["seen"].right == 1 and told["seen"].refused == 0
    assert "0 of 1 wrong and late cases named (0.0%)" in told["seen"].line()
    assert judging.counts(found.values())["wrong"] == sum(v.bad for v in told.values())


def test_the_page_leaves_out_what_was_not_asked_completely() -> None:
    def found(case: str, mode: str, outcome: str) -> kept.Found:
        return kept.Found("tvm", "1", mode, case, outcome, "", ())

    rows = [found("node/a", "plain", "wrong"), found("node/b", "plain", "died")]
    rows += [found("torch/a", "plain", "right"), found("torch/a", "product", "right")]
    told = pages.outcomes([*rows, found("node/a", "product", "right")])
    assert "| tvm 1 | node | alone | 2 | 0 | 0 | 1 | 1 |" in told
    assert "| tvm 1 | node | with the rules" not in told
    assert "| tvm 1 | torch | with the rules | 1 | 1 | 0 | 0 | 0 |" in told


def test_the_page_lists_every_rule() -> None:
    known = all_rules()
    told = pages.rules(known)
    listed = [line for line in told.splitlines() if line.startswith("| ")]
    assert len(listed) == sum(len(one.rules) + 1 for one in known.values())
    assert "ignores the axes and reduces everything | writes it with other operators |" in told
