"""Is it good enough? Never without a reason to say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.run_folder import edit, write_run

from edgemtl.record.load import load_run
from edgemtl.report.summary import summarise_run
from edgemtl.report.verdict import Verdict


def _verdict(folder: Path) -> Verdict:
    return summarise_run(load_run(folder)).verdict


@pytest.mark.parametrize(
    ("variant_name", "state", "headline"),
    [
        ("complete", "pass", "Good enough: all 7 gates pass"),
        ("no-pictures", "pass", "Good enough: all 7 gates pass"),
        ("gates-fail", "fail", "Not good enough: 5 of 8 gates failed"),
        ("failed-stage", "fail", "The run stopped at stage 'parity'"),
        ("interrupted", "not-measured", "No verdict"),
        ("not-measured", "not-measured", "Not shown: 1 of 7 gates could not be judged"),
        ("emulated", "not-measured", "Not shown: 2 of 7 gates could not be judged"),
        ("unstable", "not-measured", "Not shown: 2 of 7 gates could not be judged"),
        ("no-run-json", "not-measured", "Not shown: the gates pass, the run is unknown"),
        ("only-run-json", "not-measured", "No verdict"),
        ("nulls", "not-measured", "No verdict"),
        ("broken-files", "not-measured", "No verdict"),
    ],
)
def test_verdict_of_each_variant(
    variant: Any, variant_name: str, state: str, headline: str
) -> None:
    found = _verdict(variant(variant_name))
    assert (found.state, found.headline) == (state, headline)
    assert found.reason


def test_a_failure_says_why(variant: Any) -> None:
    assert "pose.yaw" in _verdict(variant("failed-stage")).reason
    assert "latency p99" in _verdict(variant("gates-fail")).reason
    assert "last finished stage is 'export'" in _verdict(variant("interrupted")).reason


@pytest.mark.parametrize("code", [1, 3, 4, 5, 10])
def test_passing_gates_do_not_hide_another_exit_code(tmp_path: Path, code: int) -> None:
    folder = write_run(tmp_path / "run")
    edit(folder, "run.json", lambda run: run.update(exit_code=code))
    found = _verdict(folder)
    assert found.state == "fail"
    assert f"exit code {code}" in found.headline


def test_a_stored_verdict_is_not_believed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")

    def lie(gates: dict[str, Any]) -> None:
        gates["outcomes"][0]["status"] = "fail"
        assert gates["passed"] is True

    edit(folder, "gates.json", lie)
    assert _verdict(folder).state == "fail"


def test_no_gate_is_no_pass(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    edit(folder, "gates.json", lambda gates: gates.update(outcomes=[]))
    found = _verdict(folder)
    assert found.state == "not-measured"
    assert "no gate" in found.reason


def test_only_allowed_gaps_are_no_pass_either(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")

    def gaps(gates: dict[str, Any], count: int) -> None:
        for row in gates["outcomes"][:count]:
            row |= {"status": "not-measured", "measured": None, "allowed": True}

    edit(folder, "gates.json", lambda gates: gaps(gates, 2))
    found = _verdict(folder)
    assert (found.state, found.headline) == ("pass", "Good enough: 5 gates pass")
    assert "which the recipe allows" in found.reason
    edit(folder, "gates.json", lambda gates: gaps(gates, 7))
    assert _verdict(folder).state == "not-measured"


def test_next_steps_answer_what_went_wrong(variant: Any) -> None:
    def steps(name: str) -> str:
        return "\n".join(summarise_run(load_run(variant(name))).next_steps)

    assert steps("complete") == ""
    assert "stages/04-parity/log.txt" in steps("failed-stage")
    # the costliest cut of the invented run
    assert "'backbone.stages.2.1' costs this task most" in steps("gates-fail")
    assert 'allow_not_measured = ["tasks.pose"]' in steps("not-measured")
    assert "on the device itself" in steps("emulated")
    assert "longer [bench] seconds" in steps("unstable")


def test_loss_without_compression_points_at_parity(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"tasks": {"detection": {"max_relative_drop": 0.001}}})
    (folder / "prune.json").unlink()
    (step,) = summarise_run(load_run(folder)).next_steps
    assert "edgemtl parity" in step
