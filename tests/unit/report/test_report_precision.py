"""What the report says of a lower precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemtl.record.load import load_run
from edgemtl.report.markdown import render_markdown
from edgemtl.report.page import write_report
from edgemtl.report.sections import changes

QUANTIZE: dict[str, Any] = {
    "precision": "int8",
    "choice": None,
    "layers": [
        {"name": "stem.conv", "precision": "fp32", "drops": {"pose": 0.6, "detection": 0.1}},
        {"name": "head.conv", "precision": "int8", "drops": {"pose": 0.1}},
    ],
    "notes": ["1 of 2 layers in int8, file 0.28 x"],
}


@pytest.fixture
def folder(variant: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a complete run, in int8."""
    copied = tmp_path / "run"
    shutil.copytree(variant("complete"), copied)
    (copied / "quantize.json").write_text(json.dumps(QUANTIZE), "utf-8")
    return copied


def time_against_float(folder: Path, value: float, low: float, high: float) -> None:
    """Write the comparison with the same network in float32."""
    speedup = {"value": value, "low": low, "high": high, "stable": True, "reason": ""}
    (folder / "bench" / "precision.json").write_text(json.dumps({"speedup": speedup}), "utf-8")


def section(folder: Path) -> dict[str, Any]:
    """The section on quantisation."""
    return next(change for change in changes(load_run(folder)) if change["id"] == "quantize")


def test_culprits_are_shares_of_what_all_cost(folder: Path) -> None:
    found = section(folder)
    assert "share of what all cost" in found["caption"]
    assert [(row["name"], row["precision"]) for row in found["rows"]] == [
        ("stem.conv", "fp32"),
        ("head.conv", "int8"),
    ]
    assert found["tasks"] == ["pose", "detection"]
    assert found["notes"] == QUANTIZE["notes"]


def test_slower_than_float_is_said_everywhere(folder: Path) -> None:
    time_against_float(folder, 0.58, 0.57, 0.6)
    sentence = "int8 is slower than float32 on this runtime: 0.580 times as fast"
    assert section(folder)["notes"][0].startswith(sentence)
    assert sentence in render_markdown(load_run(folder))
    assert sentence in write_report(folder).read_text("utf-8")


def test_faster_than_float_stands_in_its_section_only(folder: Path) -> None:
    time_against_float(folder, 2.1, 2.0, 2.2)
    assert "2.10 times as fast" in section(folder)["notes"][0]
    assert "slower" not in section(folder)["notes"][0]
    assert "int8 against float32" not in render_markdown(load_run(folder))


def test_a_difference_that_is_not_shown_is_called_so(folder: Path) -> None:
    time_against_float(folder, 1.0, 0.9, 1.1)
    assert "no difference in speed is shown" in section(folder)["notes"][0]


def test_a_choice_by_measurement_is_told_without_a_table(folder: Path) -> None:
    choice = {"reason": "5 ms", "rejected": {"int8": "6 ms against 5 ms"}}
    chosen = {"precision": "fp32", "choice": choice, "layers": [], "notes": []}
    (folder / "quantize.json").write_text(json.dumps(chosen), "utf-8")
    found = section(folder)
    assert found["rows"] == []
    assert found["notes"] == ["fp32 was chosen: 5 ms", "not int8: 6 ms against 5 ms"]
    page = write_report(folder).read_text("utf-8")
    assert "fp32 was chosen: 5 ms." in page


@pytest.mark.parametrize("text", ["{", '{"speedup": {"value": "fast"}}', '{"speedup": 3}'])
def test_a_broken_comparison_is_named(folder: Path, text: str) -> None:
    (folder / "bench" / "precision.json").write_text(text, "utf-8")
    run = load_run(folder)
    assert run.against_float is None
    assert any("bench/precision.json" in problem for problem in run.problems)
